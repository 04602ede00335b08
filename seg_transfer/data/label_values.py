"""Values in label files, and their class indices 0, 1, ... in the order of the values."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from seg_transfer.data.description import BACKGROUND, IGNORE, LabelScheme
from seg_transfer.data.formats import read_array, read_header
from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.util.parallel import CaseFailure, map_cases

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"segment[ _]?[0-9]+", re.IGNORECASE)
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


def infer_labels(files: Sequence[Path], folder: Path, *, workers: int) -> LabelScheme:
    """Find the labels that occur in the files: background (0), label_1, label_2, ... by ascending value.

    Of segmentations of 3D Slicer they are the names of segments that have voxels, numbered in alphabetical order; a
    segment named ignore is the ignore label. Files that cannot be read are skipped; the checks of their cases report
    them.

    Raises:
        UserError: If only background occurs, or too many values for labels; if names differ in capitals only, or some
            files have names and others values.
    """
    found: set[int | str] = {0}
    failure: CaseFailure | None = None
    title = "looking for label values"
    for _, result in map_cases(_values, files, workers=workers, title=title, name=lambda file: file.name):
        if isinstance(result, CaseFailure):
            failure = result
        else:
            found |= {value for value in result if isinstance(value, str) or value > 0}
    names = {value for value in found if isinstance(value, str)}
    values = {value for value in found if isinstance(value, int)}
    if names:
        return _of_names(names, values, folder)
    if len(values) == 1:
        what = f"no label was found: {failure.cause}" if failure else "no label holds a value other than 0"
        raise UserError(what, where=folder, hint="mark foreground with values from 1 on")
    if len(values) > MOST_VALUES:
        what = f"the files hold {len(values)} different values"
        raise UserError(what, where=folder, hint="give label maps, not images")
    return LabelScheme(
        tuple((f"label_{index}" if index else BACKGROUND, value) for index, value in enumerate(sorted(values)))
    )


def _values(file: Path) -> set[int] | set[str]:
    """The values of a label map, or the names of the segments in a segmentation that have voxels."""
    segments = read_header(file).segments
    if segments is None:
        return distinct(read_label(file).array)
    held = [distinct(layer) for layer in read_array(file, label=True)[0]]
    return {segment.name for segment in segments if segment.value in held[segment.layer]}


def _of_names(names: set[str], values: set[int], folder: Path) -> LabelScheme:
    """The labels of segmentations; ``values`` are those of label maps beside them."""
    hint = (
        'say which value each name has: in dataset.json, "labels": {"background": 0, "tumour": 1}; to evaluate, -w DIR'
    )
    if values != {0}:
        what = (
            "some labels are segmentations of 3D Slicer, whose segments have names, others are label maps with values"
        )
        raise UserError(f"{what} such as {max(values)}", where=folder, hint=hint)
    general = {name for name in names if name.lower() in (BACKGROUND, IGNORE)}
    labels = sorted(names - general, key=lambda name: (name.lower(), name))
    for first, second in pairwise(labels):
        if first.lower() == second.lower():
            what = f"segments are named {first!r} and {second!r}"
            raise UserError(what, where=folder, hint="give a label the same name in every segmentation")
    if not labels:
        raise UserError("no label holds a segment besides the background", where=folder, hint="segment something")
    if len(labels) >= MOST_VALUES:
        what = f"the segmentations have segments of {len(labels)} different names"
        raise UserError(what, where=folder, hint="give a label the same name in every segmentation")
    if len(numbered := [name for name in labels if _NUMBERED.fullmatch(name)]) > 1:
        logger.warning(
            f"{folder}: segments are named {listing(numbered)}; 3D Slicer counts them in each file by itself, and "
            "segments of the same name are one label: check that they show the same in every case"
        )
    ignore = len(labels) + 1 if any(name.lower() == IGNORE for name in general) else None
    return LabelScheme(((BACKGROUND, 0), *((name, value) for value, name in enumerate(labels, 1))), ignore=ignore)


def _chunks(array: np.ndarray) -> list[np.ndarray]:
    flat = array.reshape(-1)
    return [flat[start : start + CHUNK] for start in range(0, flat.size, CHUNK)]


def listing(values: Sequence[object]) -> str:
    """The first ten values as text."""
    texts = [str(value) for value in values[:10]]
    return ", ".join(texts) + (f", ... ({len(values)} in all)" if len(values) > 10 else "")
