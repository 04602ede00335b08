"""From trained folds and images to label maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

from seg_transfer.data.dataset import find_images
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.util.progress import keep_log
from seg_transfer.workflow.models import Models, find_models
from seg_transfer.workflow.work_folder import DEFAULT, Work

if TYPE_CHECKING:
    import numpy as np

    from seg_transfer.inference.predictor import Predictor


@overload
def predict(
    images: Path | str,
    output: Path | str,
    *,
    model: Path | str | None = ...,
    work: Path | str = ...,
    folds: Sequence[int | str] | None = ...,
    tta: bool = ...,
    probabilities: bool = ...,
    overwrite: bool = ...,
    device: str = ...,
    workers: int = ...,
) -> Path: ...
@overload
def predict(
    images: np.ndarray,
    *,
    spacing: Sequence[float],
    model: Path | str | None = ...,
    work: Path | str = ...,
    folds: Sequence[int | str] | None = ...,
    tta: bool = ...,
    device: str = ...,
) -> np.ndarray: ...
def predict(
    images: Path | str | np.ndarray,
    output: Path | str | None = None,
    *,
    spacing: Sequence[float] | None = None,
    model: Path | str | None = None,
    work: Path | str = DEFAULT,
    folds: Sequence[int | str] | None = None,
    tta: bool = True,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workers: int = 1,
) -> Path | np.ndarray:
    """Segment with trained models, averaged: files into a folder, or one array in memory.

    The models are those of an exported file; or those that `segtl summary` chose in the work folder; or, where it did
    not or ``folds`` are named, the folds of the plan in force.

    Args:
        images: Folder of images or one file; or an array ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order.
        output: Folder for the label maps, when ``images`` is a path; those that are there already are skipped.
        spacing: Of x, y and z, when ``images`` is an array.
        model: File that :func:`seg_transfer.export` wrote; needs no work folder.
        work: Work folder with trained folds.
        folds: Which folds of the plan in force, such as ``[0, 2]`` or ``["full"]``; by default all that are trained to
            the end, ``full`` only where there is no other.
        tta: Average over copies mirrored along the plan's axes.
        probabilities: Write the probabilities beside each label map.
        overwrite: Segment again what is there already.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Files prepared ahead, each in a thread of its own; 0 for one case after the other without threads.

    Returns:
        The folder with the label maps, or label values ``(x, y, z)``.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; the others are.
        UserError: If nothing is trained, the model file is damaged, or the images are not there.
    """
    if model is None:
        place = Work(Path(work))
        keep_log(place.log)
        models = find_models(place, folds)
        data, load = models.runs[0].plan.data, partial(_from_work, models)
    elif folds is not None or Path(work) != DEFAULT:
        raise UserError("an exported model has no folds to choose and needs no work folder", where=model)
    else:
        data, load = read_model_file(Path(model)).header.plan.data, partial(_from_file, Path(model))
    if not isinstance(images, Path | str):
        if spacing is None or output is not None:
            raise UserError("an array needs its spacing, and no output folder")
        return load(device).array(images, spacing, tta=tta)
    if output is None or spacing is not None:
        raise UserError("files need an output folder, and no spacing", where=images)
    cases = find_images(Path(images), len(data.channels))
    folder = Path(output)
    if folder.resolve() in {image.parent.resolve() for case in cases for image in case.images}:
        what = "the images lie there: label maps among them would be taken for images, or replace them"
        raise UserError(what, where=folder, hint="name another output folder")
    check_folder(folder)
    predictor = load(device)
    from seg_transfer.inference.files import predict_folder

    failures = predict_folder(
        predictor, cases, folder, probabilities=probabilities, tta=tta, overwrite=overwrite, workers=workers
    )
    if failures:
        raise SomeCasesFailed(failures)
    return folder


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
