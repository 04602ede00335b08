"""From trained models to files that need no work folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import CardOptions, ExportOptions
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.models import Models, find_models
from seg_transfer.workflow.work_folder import Work


@takes(ExportOptions)
def export(options: ExportOptions) -> list[Path]:
    """Write trained models into one file that :func:`seg_transfer.predict` uses without a work folder.

    It holds weights, plan, label and channel names and a card; no names of cases or of the data set, no paths, nothing
    of the images' headers. ONNX holds the mean probabilities of the folds (see :mod:`seg_transfer.exporting.onnx`).
    Without named folds it is what `segtl summary` chose, or else all trained folds of the current plan.

    Returns:
        The files written.

    Raises:
        UserError: If nothing is trained, or ONNX's packages are missing.
    """
    for file in (options.output, options.onnx):
        if file is not None:
            check_folder(file.parent)
    place = Work(options.work)
    models = find_models(place, options.folds)
    environment.check_torch()
    from seg_transfer.exporting.save import make_header, save_model_file

    if options.onnx is not None:
        from seg_transfer.exporting.onnx import check_onnx

        check_onnx()
        if len(models.runs) > 1:
            hint = "name the folds of the current plan, such as --folds 0"
            raise UserError(
                "ONNX holds one configuration, an ensemble of several is chosen", where=place.choice, hint=hint
            )
    dice, cases = _dice(models)
    header = make_header(
        models.runs,
        name=options.name,
        dice=dice,
        validated=cases,
        chosen=models.choice is not None,
        postprocessing=models.postprocessing,
    )
    if options.output is not None:
        save_model_file(options.output, header, models.runs)
    if options.onnx is not None:
        from seg_transfer.exporting.load import load_folds
        from seg_transfer.exporting.onnx import save_onnx

        save_onnx(options.onnx, header, load_folds(models.runs[0].plan, models.runs[0].models))
    return [file for file in (options.output, options.onnx) if file is not None]


@takes(CardOptions)
def card(options: CardOptions) -> str:
    """The card of an exported model: what it reads and predicts, what it was trained on, its scores and terms.

    Raises:
        UserError: If it is no such file, or damaged.
    """
    return read_model_file(options.model).header.card


def _dice(models: Models) -> tuple[Mapping[str, float] | None, int]:
    """Mean Dice of each label by cross-validation, and over how many cases; None if these models have none."""
    if models.choice is not None:
        known = models.choice.dice
        return {name: math.nan if mean is None else mean for name, mean in known.items()}, models.choice.cases
    from seg_transfer.evaluation.ranking import pooled
    from seg_transfer.evaluation.scores import Scores

    (run,) = models.runs
    validated = [fold for fold in run.folder.validated_folds if fold in run.folds or run.folds == ("full",)]
    if not validated:
        return None, 0
    scores = pooled([Scores.load(run.folder.run(fold).scores) for fold in validated])
    return scores.label_dice, len(scores.cases)
