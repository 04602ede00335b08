"""From trained folds and images to label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from seg_transfer import environment
from seg_transfer.data.dataset import find_images
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.workdir import DEFAULT, MODEL_FILE, Fold, Work, fold_from_text, folds_of

if TYPE_CHECKING:
    import numpy as np


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
) -> Path | np.ndarray:
    """Segment with the trained folds of the plan, averaged: files into a folder, or one array in memory.

    Args:
        images: Folder of images or one file; or an array ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order.
        output: Folder for the label maps, when ``images`` is a path; those that are there already are skipped.
        spacing: Of x, y and z, when ``images`` is an array.
        work: Work folder with trained folds.
        folds: Which folds, such as ``[0, 2]`` or ``["full"]``; by default all that are trained, ``full`` alone only
            where there is no other.
        tta: Average over copies mirrored along the plan's axes.
        probabilities: Write the probabilities beside each label map.
        overwrite: Segment again what is there already.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Returns:
        The folder with the label maps, or label values ``(x, y, z)``.

    Raises:
        SomeCasesFailed: If some cases could not be segmented; the others are.
        UserError: If nothing is trained, or the images are not there.
    """
    is_array = not isinstance(images, Path | str)
    if is_array == (spacing is None) or is_array == (output is not None):
        raise UserError("predict takes a path and an output folder, or an array and its spacing")
    place = Work(Path(work))
    made = place.load_plan()
    device = environment.resolve_device(device)
    cases = None if is_array else find_images(Path(images), len(made.data.channels))
    models = [place.run_folder(made, fold) / MODEL_FILE for fold in _chosen(place, made, folds)]
    environment.check_torch()
    from seg_transfer.inference.predict import predict_folder
    from seg_transfer.inference.predictor import Predictor

    predictor = Predictor.load(models, device)
    if cases is None:
        return predictor.array(images, spacing, tta=tta)
    folder = Path(output)
    failures = predict_folder(predictor, cases, folder, probabilities=probabilities, tta=tta, overwrite=overwrite)
    if failures:
        raise SomeCasesFailed(failures)
    return folder


def _chosen(place: Work, made: Plan, folds: Sequence[int | str] | None) -> list[Fold]:
    """The folds to average; those that the user names must be trained."""
    there = [fold for fold in folds_of(made) if (place.run_folder(made, fold) / MODEL_FILE).is_file()]
    if not there:
        raise UserError(
            "no fold of this plan is trained", where=place.plan_folder(made), mend="run `segtl train 0` first"
        )
    if folds is None:
        return [fold for fold in there if fold != "full"] or there
    chosen = [fold_from_text(str(fold).strip(), made, option="--folds") for fold in folds]
    missing = [str(fold) for fold in chosen if fold not in there]
    if missing:
        what = f"not trained: {', '.join(missing)}"
        mend = f"trained are: {', '.join(map(str, there))}"
        raise UserError(what, where=place.plan_folder(made), mend=mend)
    return list(dict.fromkeys(chosen))
