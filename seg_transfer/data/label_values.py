"""Values in label files, and their class indices 0, 1, ... in the order of the values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.util.parallel import CaseFailure, map_cases

UNDECLARED_HINT = "declare them in dataset.json, or correct the label"
MOST_VALUES = 256
"""Files with more values than this are images, not label maps."""
CHUNK = 2**20
"""Voxels converted at a time, so that temporary arrays are small compared with the volume."""


def to_classes(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn label values into class indices.

    Args:
        array: Integers of any shape.
        values: The value of each class.

    Returns:
        Class indices of the same shape, uint8 or (from 256 classes on) uint16.

    Raises:
        UserError: If a value without a class occurs.
    """
    unknown = len(values)
    table = np.full(max(values) + 1, unknown, dtype=np.uint8 if unknown < 256 else np.uint16)
    table[list(values)] = range(len(values))
    classes = np.empty(array.shape, table.dtype)
    # In chunks, since indexing converts the index to eight bytes per voxel.
    for chunk, target in zip(_chunks(array), _chunks(classes), strict=True):
        inside = chunk.min() >= 0 and chunk.max() <= max(values)
        if inside:
            target[...] = table[chunk]
        if not inside or (target == unknown).any():
            raise UserError(
                f"label values {listing(undeclared(array, values))} occur, but only {listing(values)} are declared",
                hint=UNDECLARED_HINT,
            )
    return classes


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
