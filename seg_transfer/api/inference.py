"""From trained folds and images to label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from seg_transfer import environment
from seg_transfer.data.dataset import find_images
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.files import check_folder
from seg_transfer.planning.plan import Plan
from seg_transfer.progress import keep_log, warn
from seg_transfer.workdir import DEFAULT, MODEL_FILE, Fold, Work, fold_from_text, folds_of

if TYPE_CHECKING:
    import numpy as np

    from seg_transfer.inference.predictor import Predictor


@overload
def predict(
    images: Path | str,
    output: Path | str,
    *,
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
    work: Path | str = DEFAULT,
    folds: Sequence[int | str] | None = None,
    tta: bool = True,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workers: int = 1,
) -> Path | np.ndarray:
    """Segment with the trained folds of the plan, averaged: files into a folder, or one array in memory.

    Args:
        images: Folder of images or one file; or an array ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order.
        output: Folder for the label maps, when ``images`` is a path; those that are there already are skipped.
        spacing: Of x, y and z, when ``images`` is an array.
        work: Work folder with trained folds.
        folds: Which folds, such as ``[0, 2]`` or ``["full"]``; by default all that are trained to the end, ``full``
            only where there is no other.
        tta: Average over copies mirrored along the plan's axes.
        probabilities: Write the probabilities beside each label map.
        overwrite: Segment again what is there already.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Files prepared ahead, each in a thread of its own; 0 for one case after the other without threads.

    Returns:
        The folder with the label maps, or label values ``(x, y, z)``.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; the others are.
        UserError: If nothing is trained, or the images are not there.
    """
    place = Work(Path(work))
    keep_log(place.log)
    made = place.load_plan()
    if not isinstance(images, Path | str):
        if spacing is None or output is not None:
            raise UserError("an array needs its spacing, and no output folder")
        return _predictor(place, made, folds, device).array(images, spacing, tta=tta)
    if output is None or spacing is not None:
        raise UserError("files need an output folder, and no spacing", where=images)
    cases = find_images(Path(images), len(made.data.channels))
    folder = Path(output)
    if folder.resolve() in {image.parent.resolve() for case in cases for image in case.images}:
        what = "the images lie there: label maps among them would be taken for images, or replace them"
        raise UserError(what, where=folder, mend="name another output folder")
    check_folder(folder)
    predictor = _predictor(place, made, folds, device)
    from seg_transfer.inference.predict import predict_folder

    failures = predict_folder(
        predictor, cases, folder, probabilities=probabilities, tta=tta, overwrite=overwrite, workers=workers
    )
    if failures:
        raise SomeCasesFailed(failures)
    return folder


def _predictor(place: Work, made: Plan, folds: Sequence[int | str] | None, device: str) -> Predictor:
    models = [place.run_folder(made, fold) / MODEL_FILE for fold in _chosen(place, made, folds)]
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.inference.predictor import Predictor

    return Predictor.load(models, device)


def _chosen(place: Work, made: Plan, folds: Sequence[int | str] | None) -> list[Fold]:
    """The folds to average: those that the user names, else all that are trained to the end."""
    there = [fold for fold in folds_of(made) if (place.run_folder(made, fold) / MODEL_FILE).is_file()]
    finished = [fold for fold in there if place.finished(made, fold)]
    where = place.plan_folder(made)
    if folds is None:
        if not finished:
            mend = f"run `segtl train 0{place.option}` to its end"
            if there:
                mend += f", or name an unfinished one: --folds {there[0]}"
            raise UserError("no fold of this plan is trained", where=where, mend=mend)
        return [fold for fold in finished if fold != "full"] or finished
    chosen = list(dict.fromkeys(fold_from_text(str(fold).strip(), made, option="--folds") for fold in folds))
    if missing := [str(fold) for fold in chosen if fold not in there]:
        mend = f"trained are: {', '.join(map(str, there)) or 'none'}"
        raise UserError(f"not trained: {', '.join(missing)}", where=where, mend=mend)
    for fold in chosen:
        if fold not in finished:
            warn(f"{place.run_folder(made, fold)} is not trained to the end")
    return chosen
