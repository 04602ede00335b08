"""Values in label files, and their class indices 0, 1, ... in the order of the values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.util.parallel import CaseFailure, map_cases

UNDECLARED_HINT = "declare them in dataset.json, or correct the label"
LARGEST_IN_2D = 2**16 - 1
"""Largest value in a predicted label map of a 2D image."""
MOST_VALUES = 256
"""Files with more values than this are images, not label maps."""
CHUNK = 2**20
"""Voxels converted at a time, so that temporary arrays are small compared with the volume."""


def to_classes(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn label values into class indices.

    Args:
        array: Integers of any shape.
        values: The value of each class, of the range of int64.

    Returns:
        Class indices of the same shape, uint8 or (from 256 classes on) uint16.

    Raises:
        UserError: If a value without a class occurs.
    """
    declared = np.asarray(values, np.int64)
    order = np.argsort(declared)
    classes = np.empty(array.shape, np.min_scalar_type(len(values)))
    # In chunks, since the search takes eight bytes per voxel.
    for chunk, target in zip(_chunks(array), _chunks(classes), strict=True):
        if not _look_up(chunk, declared[order], order, target):
            raise UserError(
                f"label values {listing(undeclared(array, values))} occur, but only {listing(values)} are declared",
                hint=UNDECLARED_HINT,
            )
    return classes


def _look_up(chunk: np.ndarray, declared: np.ndarray, order: np.ndarray, target: np.ndarray) -> bool:
    """Write the position ``order`` of each value in ``declared``, which is ascending; returns whether all are in it.

    By search, not by a table with an entry per value: numbers of an atlas go to 10^9, and some are negative.
    """
    if chunk.dtype.kind == "b":
        chunk = chunk.view(np.uint8)
    limits = np.iinfo(chunk.dtype)
    fitting = (declared >= limits.min) & (declared <= limits.max)
    if not fitting.any():
        return not chunk.size
    declared, order = declared[fitting].astype(chunk.dtype), order[fitting]
    found = np.searchsorted(declared, chunk)
    np.minimum(found, len(declared) - 1, out=found)
    target[...] = order[found]
    return bool((declared[found] == chunk).all())


def undeclared(array: np.ndarray, values: Sequence[int]) -> list[int]:
    """Values that occur and are not declared."""
    return sorted(distinct(array) - set(values))


def distinct(array: np.ndarray) -> set[int]:
    """All values that occur."""
    return {value for chunk in _chunks(array) for value in np.unique(chunk).tolist()}


def map_note(values: Sequence[int]) -> str:
    """Describe the classes of label values that are not 0, 1, 2, ...; empty if they are."""
    if list(values) == list(range(len(values))):
        return ""
    return f"label values {listing(values)} are classes {listing(range(len(values)))}"


def infer_labels(files: Sequence[Path], folder: Path, *, workers: int) -> tuple[tuple[str, int], ...]:
    """Find the labels that occur in the files: background (0), label_1, label_2, ... by ascending value.

    Files that cannot be read are skipped; the checks of their cases report them.

    Raises:
        UserError: If only background occurs, or too many values for labels.
    """
    values = {0}
    failure: CaseFailure | None = None
    title = "looking for label values"
    for _, result in map_cases(_values, files, workers=workers, title=title, name=lambda file: file.name):
        if isinstance(result, CaseFailure):
            failure = result
        else:
            values |= {value for value in result if value > 0}
    if len(values) == 1:
        what = f"no label was found: {failure.cause}" if failure else "no label holds a value other than 0"
        raise UserError(what, where=folder, hint="mark foreground with values from 1 on")
    if len(values) > MOST_VALUES:
        what = f"the files hold {len(values)} different values"
        raise UserError(what, where=folder, hint="give label maps, not images")
    return tuple((f"label_{index}" if index else "background", value) for index, value in enumerate(sorted(values)))


def _values(file: Path) -> set[int]:
    return distinct(read_label(file).array)


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    flat = array.reshape(-1)
    return [flat[start : start + CHUNK] for start in range(0, flat.size, CHUNK)]


def listing(values: Sequence[int]) -> str:
    """The first ten values as text."""
    texts = [str(value) for value in values[:10]]
    return ", ".join(texts) + (f", ... ({len(values)} in all)" if len(values) > 10 else "")
