"""Segments images with trained models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from seg_transfer.data.checks import FormsApart
from seg_transfer.data.dataset import Case, Dataset, find_cases
from seg_transfer.data.formats import (
    ENDINGS,
    LOSSY_ENDINGS,
    RASTER_ENDINGS,
    READ_ONLY_ENDINGS,
    SEGMENTATION_ENDING,
    TIFF_ENDINGS,
    ZARR_ENDINGS,
    check_packages,
    ending,
    is_raster,
    is_supported,
    is_zarr,
)
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.inference.outputs import Outputs
from seg_transfer.options.calls import look_at_addresses, options_from, takes, with_arguments
from seg_transfer.options.model_options import ArrayOptions, PredictOptions
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util import environment
from seg_transfer.util.cluster import client
from seg_transfer.util.local_files import check_file, check_folder
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.remote import fetch
from seg_transfer.util.texts import first_of
from seg_transfer.workflow.output_files import CSV, VOLUMES, check_not_kept, check_output
from seg_transfer.workflow.predict_on_cluster import predict_on_cluster
from seg_transfer.workflow.segmenter import segment
from seg_transfer.workflow.source import find_any, find_source, load_any, load_predictor
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    import numpy as np


@overload
def predict(images: Path | str | Sequence[Path | str] | PredictOptions, *arguments: Any, **options: Any) -> Path: ...
@overload
def predict(
    images: Any, *, spacing: Sequence[float] | None = None, affine: np.ndarray | None = None, **options: Any
) -> Any: ...
def predict(images: Any, *arguments: Any, **options: Any) -> Any:
    """Segment files into a folder, or one array in memory, by the mean probabilities of trained models.

    The models are those of an exported file, or those that `segtl summary` chose in the work folder. Without a choice,
    or if folds are named, they are folds of the current plan: by default all that are trained to the end, ``full`` only
    if there is no other. With ``nnunet`` it is a trained model of nnU-Net v2, which predicts as nnU-Net itself does.

    ``predictions.json`` beside the label maps records which model made each of which images, and in what these are
    unlike the training images or their labels' volumes unlike those of the training cases, which is logged as a warning
    too. What the same model made of the same images is skipped, unless ``overwrite`` is set; other label maps are
    replaced, unless ``keep`` is. ``volumes`` has all label maps, skipped ones included.

    ``pictures`` draws ``overlays/CASE.png`` beside the label maps. ``uncertainty`` writes the entropy in percent as
    ``uncertainty/CASE``, with the label map's ending, and the confidence into ``predictions.json`` and ``volumes``
    (:class:`seg_transfer.inference.uncertainty.Uncertainty`).

    ``part`` chooses every N-th case by name, so that N calls do each case once, in any order and at the same time.

    In place of ``images`` one image in memory can be given: an array with its ``spacing`` or ``affine``, or an image of
    nibabel or SimpleITK. It needs no ``output``, ``overwrite``, ``keep``, ``workers`` or ``cluster``.
    :class:`~seg_transfer.workflow.segmenter.Segmenter` says what it may be and what is returned, and is faster for
    several.

    Returns:
        The folder with the label maps, or the only label map if ``output`` is a file; of an image in memory its label
        map, with ``probabilities`` also those, with ``uncertainty`` also its entropy map and its confidence.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; all others are.
        UserError: If no fold is trained, the model file is damaged, there is no image, images have more channels than
            the model, or a label map was changed since it was predicted.
    """
    if isinstance(images, PredictOptions):
        return _predict_files(images)
    several = isinstance(images, list | tuple) and all(isinstance(each, Path | str) for each in images)
    if isinstance(images, Path | str) or several:
        return _predict_files(options_from(PredictOptions, "predict", images, *arguments, **options))
    geometry = {name: options.pop(name) for name in ("spacing", "affine") if name in options}
    of_array = options_from(ArrayOptions, "predict", *arguments, **options)
    look_at_addresses(of_array)
    predictor = load_predictor(find_source(of_array), of_array)
    asked = {name: getattr(of_array, name) for name in ("tta", "probabilities", "uncertainty")}
    return segment(predictor, images, **geometry, **asked)


predict.__doc__ = with_arguments(predict.__doc__ or "", PredictOptions)


@takes(PredictOptions)
def _predict_files(options: PredictOptions) -> Path:
    models = find_any(options)
    cases = find_cases(options.images, len(models.data.channels))
    outputs = _outputs(options, cases)
    if options.part is not None:
        part, parts = options.part
        cases = sorted(cases, key=lambda case: case.id)[part - 1 :: parts]
    if options.volumes is not None:
        check_output(options.volumes, VOLUMES if options.volumes.suffix.lower() == ".json" else CSV)
    if client() is None:  # workers of a cluster fetch what they read
        fetch(image for case in cases for image in case.images)
    FormsApart.of(image for case in cases for image in case.images).warn()
    from seg_transfer.inference.predictions import PredictionLog

    log = PredictionLog(outputs, model=models.digest(), tta=options.tta)
    pending = log.pending(cases, keep=options.keep, overwrite=options.overwrite)
    failures: dict[str, str] = {}
    if pending and client() is not None:
        failures = predict_on_cluster(options, pending, log)
    elif pending:
        from seg_transfer.inference.folder import predict_folder

        predictor = load_any(models, options)
        failures = predict_folder(predictor, pending, outputs, tta=options.tta, workers=options.workers, log=log)
    predicted = [case for case in cases if case.id not in failures]
    if options.volumes is not None:
        from seg_transfer.inference.volumes import measure_volumes, save_volumes

        files = {case.id: outputs.label_map(case) for case in predicted}
        confidence = {case.id: log.confidence(case) for case in predicted}
        data = models.data
        measured = measure_volumes(files, data.scored, confidence, data.names, instances=data.instances)
        save_volumes(options.volumes, measured)
    if options.pictures:
        failures |= _draw_overlays(predicted, outputs, models.data, processes=options.workers > 0)
    if failures:
        raise SomeCasesFailed(failures, of=len(cases))
    return options.output


def _draw_overlays(cases: Sequence[Case], outputs: Outputs, data: DataPlan, *, processes: bool) -> dict[str, str]:
    """Draw the overlays that are not there yet of these label maps; one-line causes of those that failed."""
    from seg_transfer.evaluation.overlay import shows

    missing = [case for case in cases if not shows(outputs.overlay(case), outputs.label_map(case))]
    files = [file for case in missing for file in case.images]
    drawn = map_cases(
        partial(_draw_overlay, outputs=outputs, data=data),
        missing,
        workers=environment.case_workers(None, files) if processes else 0,
        title="drawing overlays",
        name=lambda case: case.id,
    )
    return {case.id: result.cause for case, result in drawn if isinstance(result, CaseFailure)}


def _draw_overlay(case: Case, *, outputs: Outputs, data: DataPlan) -> None:
    from seg_transfer.evaluation.overlay import save_prediction_overlay

    label_map = outputs.label_map(case)
    save_prediction_overlay(
        outputs.overlay(case), case.id, case.images, label_map, data.scored, data.names, instances=data.instances
    )


def _outputs(options: PredictOptions, cases: Sequence[Case]) -> Outputs:
    """Where label maps are written.

    Raises:
        UserError: If they would replace images or labels, or cannot be written there.
    """
    output = options.output
    check_not_kept(output)
    wanted = Outputs(output, options.probabilities, uncertainty=options.uncertainty, overlays=options.pictures)
    images = {image.resolve() for case in cases for image in case.images}
    if is_zarr(output) or (is_supported(output) and not output.is_dir()):
        _check_one_file(output, cases)
        outputs = replace(wanted, folder=output.parent, file=output)
        if options.format is not None:
            raise UserError("the ending of the output file is its format", where="--format", hint="omit it")
    else:
        suffix = None if options.format is None else f".{options.format}"
        for case in cases:
            _check_ending(suffix, case, where=f"--format {options.format}")
        check_packages([] if suffix is None else [Path(f"labels{suffix}")])
        if output.resolve() in {image.parent for image in images}:
            what = "the images are in this folder: label maps would be taken for images, or replace them"
            raise UserError(what, where=output, hint="name another output folder")
        check_folder(output)
        outputs = replace(wanted, suffix=suffix)
    labels = set() if options.model is not None or options.nnunet is not None else _labels(WorkFolder(options.work))
    for case in cases:
        for file in outputs.files(case):
            if file.resolve() in images | labels:
                kind = "an image to predict" if file.resolve() in images else "a label of the data set"
                made = "a label map" if file == outputs.label_map(case) else f"a file of {file.parent.name}/"
                raise UserError(f"this is {kind}, which {made} would replace", where=file, hint="name another output")
    for folder in {file.parent for case in cases for file in outputs.files(case)}:
        check_folder(folder)
    return outputs


def _check_one_file(output: Path, cases: Sequence[Case]) -> None:
    """Refuse an output file for several cases, or of a format that cannot hold the label map."""
    if len(cases) > 1:
        what = f"one file for {len(cases)} images: {first_of((case.id for case in cases), 3)}"
        raise UserError(what, where=output, hint="name a folder")
    if ending(output) in LOSSY_ENDINGS:
        raise UserError("JPEG would change label values", where=output, hint="name a .png file")
    _check_ending(ending(output), cases[0], where=output)
    check_packages([output])
    if is_zarr(output):
        check_folder(output.parent)
    else:
        check_file(output)


def _check_ending(suffix: str | None, case: Case, *, where: Path | str) -> None:
    """Refuse a format that cannot hold a case's label map.

    Volumes go into those that keep their place in the world; only what came from TIFF or OME-Zarr goes back there
    without it.
    """
    known, flat = (*ENDINGS, SEGMENTATION_ENDING), is_raster(case.images[0])
    kept = (
        set(RASTER_ENDINGS) - set(READ_ONLY_ENDINGS)
        if flat
        else set(known) - {*RASTER_ENDINGS, *TIFF_ENDINGS, *ZARR_ENDINGS}
    )
    for unplaced in (TIFF_ENDINGS, ZARR_ENDINGS):
        if ending(case.images[0]) in unplaced:
            kept |= set(unplaced)
    if suffix is not None and suffix not in kept:
        endings = [each for each in known if each in kept]
        what = f"not a format for {'2D images' if flat else 'volumes'} such as {case.images[0].name}"
        raise UserError(what, where=where, hint=f"choose one of {', '.join(endings)}")


def _labels(work: WorkFolder) -> set[Path]:
    """The label files of a work folder's data set."""
    if not work.dataset.is_file():
        return set()
    return {case.label.resolve() for case in Dataset.load(work.dataset).cases if case.label is not None}
