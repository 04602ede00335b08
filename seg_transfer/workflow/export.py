"""Exports trained models into files that need no work folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.errors import UserError, printable
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import CardOptions, ExportOptions
from seg_transfer.planning.model_file import NOTHING, read_model_file
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.util import environment
from seg_transfer.util.extras import check_extra
from seg_transfer.workflow.models import Models, find_models
from seg_transfer.workflow.output_files import MODEL_FILE, ONNX, check_not_kept, check_output
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.evaluation.scores import Scores


@takes(ExportOptions)
def export(options: ExportOptions) -> list[Path]:
    """Write trained models into one file that :func:`seg_transfer.predict` uses without a work folder.

    It holds weights, plan, label and channel names, the ranges of the training images' intensities, spacings and sizes
    and of labels' volumes, and a card; no names of cases or of the data set, no paths, no texts of the images' headers.
    ONNX computes the mean probabilities of the folds (see :mod:`seg_transfer.exporting.onnx`).
    A bundle predicts what the model file does (see :mod:`seg_transfer.exporting.bundle`).
    By default the runs that `segtl summary` chose are exported, or else all trained folds of the current plan.

    Returns:
        The files and folders written.

    Raises:
        UserError: If no fold is trained, or ONNX's packages are missing.
    """
    for file, kind in ((options.output, MODEL_FILE), (options.onnx, ONNX)):
        if file is not None:
            check_output(file, kind)
    if options.bundle is not None:
        check_not_kept(options.bundle)
    work = WorkFolder(options.work)
    models = find_models(work, options.folds)
    environment.check_torch()
    from seg_transfer.exporting.bundle import check_bundle, save_bundle
    from seg_transfer.exporting.save import make_header, save_model_file

    if options.bundle is not None:
        check_bundle(options.bundle)

    if options.onnx is not None:
        check_extra("onnx", "writing ONNX", where="--onnx")
        if len(models.runs) > 1:
            what = "ONNX holds one configuration, an ensemble of several is chosen"
            raise UserError(what, where=work.choice, hint="name the folds of the current plan, such as --folds 0")
    dice, cases, scores = _dice(models)
    header = make_header(
        models.runs,
        name=options.name,
        dice=dice,
        validated=cases,
        chosen=models.choice is not None,
        postprocessing=models.postprocessing,
        scores=scores,
        licence=options.licence,
    )
    if options.output is not None:
        save_model_file(options.output, header, models.runs)
    if options.onnx is not None:
        from seg_transfer.exporting.load import load_folds
        from seg_transfer.exporting.onnx import save_onnx

        save_onnx(options.onnx, header, load_folds(models.runs[0].plan, models.runs[0].models))
    if options.bundle is not None:
        save_bundle(options.bundle, header, models.runs, name=options.name, licence=options.licence)
    return [path for path in (options.output, options.onnx, options.bundle) if path is not None]


@takes(CardOptions)
def card(options: CardOptions) -> str:
    """The card of an exported model: its input, output, training data, scores and licence terms.

    The text is the file's own; control characters in it are escaped.

    Raises:
        UserError: If the file is no exported model, or damaged.
    """
    return printable(read_model_file(options.model).header.card, keep="\n")


def _dice(models: Models) -> tuple[Mapping[str, float] | None, int, Scores | None]:
    """Cross-validated mean Dice of each label, the number of cases, and their scores if they are of these label maps.

    None, 0 and None if no fold is validated.
    """
    scores = _scores(models.runs[0]) if len(models.runs) == 1 and models.postprocessing == NOTHING else None
    if models.choice is not None:
        dice = {name: math.nan if mean is None else mean for name, mean in models.choice.dice.items()}
        return dice, models.choice.cases, scores
    return (None, 0, None) if scores is None else (scores.label_dice, len(scores.cases), scores)


def _scores(run: TrainedRuns) -> Scores | None:
    """Scores of all validated folds of a run together."""
    from seg_transfer.evaluation.ranking import pooled
    from seg_transfer.evaluation.scores import Scores

    validated = [fold for fold in run.folder.validated_folds if fold in run.folds or run.folds == ("full",)]
    return pooled([Scores.load(run.folder.run(fold).scores) for fold in validated]) if validated else None
