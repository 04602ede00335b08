"""Segments images with trained models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from seg_transfer.data.checks import warn_of_forms
from seg_transfer.data.dataset import find_images
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import options_from, with_arguments
from seg_transfer.options.model_options import ArrayOptions, PredictOptions
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.models import Models, find_models
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    import numpy as np

    from seg_transfer.inference.predictor import Predictor


@overload
def predict(images: Path | str | PredictOptions, *arguments: Any, **options: Any) -> Path: ...
@overload
def predict(images: np.ndarray, *, spacing: Sequence[float], **options: Any) -> np.ndarray: ...
def predict(images: Path | str | PredictOptions | np.ndarray, *arguments: Any, **options: Any) -> Path | np.ndarray:
    """Segment files into a folder, or one array in memory, by the mean probabilities of trained models.

    The models are those of an exported file, or those that `segtl summary` chose in the work folder. Without a choice,
    or if folds are named, they are folds of the current plan: by default all that are trained to the end, ``full`` only
    if there is no other. Label maps that exist in the output folder are kept, unless ``overwrite`` is set.

    In place of ``images`` an array ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order can be given. It needs its
    ``spacing`` of x, y and z in mm, and no ``output``, ``probabilities``, ``overwrite`` or ``workers``.

    Returns:
        The folder with the label maps, or label values ``(x, y, z)``.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; all others are.
        UserError: If no fold is trained, the model file is damaged, or there is no image.
    """
    if isinstance(images, PredictOptions):
        return _predict_files(images)
    if isinstance(images, Path | str):
        return _predict_files(options_from(PredictOptions, "predict", images, *arguments, **options))
    if "spacing" not in options:
        raise TypeError("predict() needs the spacing of an array: spacing=(x, y, z), in mm")
    spacing = options.pop("spacing")
    return _predict_array(images, spacing, options_from(ArrayOptions, "predict", *arguments, **options))


predict.__doc__ = with_arguments(predict.__doc__ or "", PredictOptions)


def _predict_files(options: PredictOptions) -> Path:
    data, load = _models(options)
    cases = find_images(options.images, len(data.channels))
    folder = options.output
    if folder.resolve() in {image.parent.resolve() for case in cases for image in case.images}:
        what = "the images are in this folder: label maps would be taken for images, or replace them"
        raise UserError(what, where=folder, hint="name another output folder")
    check_folder(folder)
    warn_of_forms(image for case in cases for image in case.images)
    predictor = load(options.device)
    from seg_transfer.inference.folder import predict_folder

    failures = predict_folder(
        predictor,
        cases,
        folder,
        probabilities=options.probabilities,
        tta=options.tta,
        overwrite=options.overwrite,
        workers=options.workers,
    )
    if failures:
        raise SomeCasesFailed(failures)
    return folder


def _predict_array(image: np.ndarray, spacing: Sequence[float], options: ArrayOptions) -> np.ndarray:
    _, load = _models(options)
    return load(options.device).array(image, spacing, tta=options.tta)


def _models(options: ArrayOptions) -> tuple[DataPlan, Callable[[str], Predictor]]:
    """The data part of the models' plan, and a function that loads the models onto a device."""
    if options.model is not None:
        return read_model_file(options.model).header.plan.data, partial(_from_file, options.model)
    models = find_models(WorkFolder(options.work), options.folds)
    return models.runs[0].plan.data, partial(_from_work, models)


def _from_work(models: Models, device: str) -> Predictor:
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.inference.ensemble import Ensemble
    from seg_transfer.inference.predictor import Predictor

    members = [Predictor.load(run.models, device) for run in models.runs]
    predictor = members[0] if len(members) == 1 else Ensemble(members)
    predictor.postprocessing = models.postprocessing
    return predictor


def _from_file(model: Path, device: str) -> Predictor:
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.exporting.load import load_model_file

    return load_model_file(model, device)
