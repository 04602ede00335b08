"""Values in label files, and their class indices 0, 1, ... in the order of the values."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from seg_transfer.data.description import BACKGROUND, IGNORE, LabelScheme
from seg_transfer.data.formats import read_array, read_header
from seg_transfer.data.formats.masks import is_masks
from seg_transfer.data.image import read_label
from seg_transfer.errors import UserError
from seg_transfer.util.environment import case_workers
from seg_transfer.util.memory_order import MemoryOrder, blocks
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.remote import fetch
from seg_transfer.util.texts import first_of

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"segment[ _]?[0-9]+", re.IGNORECASE)
UNDECLARED_HINT = "declare them in dataset.json, or correct the label"
LARGEST_IN_2D = 2**16 - 1
"""Largest value in a predicted label map of a 2D image."""
MOST_VALUES = 256
"""Files with more values than this are images, not label maps."""


def to_classes(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Turn label values into class indices.

    Args:
        array: Integers of any shape.
        values: The value of each class, of the range of int64.

    Returns:
        Class indices of the same shape, uint8 or (from 256 classes on) uint16; the array itself if it holds them.

    Raises:
        UserError: If a value without a class occurs.
    """
    if array.dtype.kind == "b":
        array = array.view(np.uint8)
    dtype = np.min_scalar_type(len(values))
    if array.dtype == dtype and list(values) == list(range(len(values))) and array.max(initial=0) < len(values):
        return array
    order = MemoryOrder.of(array)
    view = order.view(array)
    classes = np.empty(view.shape, dtype)
    look_up = _table(values, array.dtype) if array.dtype.itemsize <= 2 else _search(values, array.dtype)
    for _, (block, target) in blocks(view, classes):
        found = look_up(block)
        if found.max(initial=0) == len(values):
            strange, known = first_of(undeclared(array, values), 10), first_of(values, 10)
            what = f"label values {strange} occur, but only {known} are declared"
            raise UserError(what, hint=UNDECLARED_HINT)
        target[...] = found
    return order.restore(classes)


def _table(values: Sequence[int], dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Look integers of up to 16 bits up in a table: the class of each, or the number of classes."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    table = np.full(2 ** (8 * dtype.itemsize), len(values), np.min_scalar_type(len(values)))
    limits = np.iinfo(dtype)
    for index, value in enumerate(values):
        if limits.min <= value <= limits.max:
            table[np.array(value, dtype).view(unsigned)] = index
    return lambda block: table[block.view(unsigned)]


def _search(values: Sequence[int], dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Look integers up by search, since numbers of an atlas go to 10^9; the number of classes where there is none."""
    limits = np.iinfo(dtype)
    declared = np.asarray(values, np.int64)
    order = np.argsort(declared)
    order = order[(declared[order] >= limits.min) & (declared[order] <= limits.max)]
    declared = declared[order].astype(dtype)
    if not order.size:
        return lambda block: np.full(block.shape, len(values))

    def look_up(block: np.ndarray) -> np.ndarray:
        found = np.minimum(np.searchsorted(declared, block), len(declared) - 1)
        return np.where(declared[found] == block, order[found], len(values))

    return look_up


def undeclared(array: np.ndarray, values: Sequence[int]) -> list[int]:
    """Values that occur and are not declared."""
    return sorted(distinct(array) - set(values))


def distinct(array: np.ndarray) -> set[int]:
    """All values that occur."""
    found: set[int] = set()
    for _, (block,) in blocks(MemoryOrder.of(array).view(array)):
        labelled = block[block != 0]  # few, mostly
        found |= set(np.unique(labelled).tolist())
        found |= {0} if labelled.size < block.size else set()
    return found


def map_note(values: Sequence[int]) -> str:
    """Describe the classes of label values that are not 0, 1, 2, ...; empty if they are."""
    if list(values) == list(range(len(values))):
        return ""
    return f"label values {first_of(values, 10)} are classes {first_of(range(len(values)), 10)}"


def infer_labels(files: Sequence[Path], folder: Path, *, workers: int | None) -> LabelScheme:
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
    fetch(files)
    workers = case_workers(workers, files)
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
    """The values of a label map, the names of the segments in a segmentation that have voxels, or those of masks."""
    segments = read_header(file).segments
    if segments is None:
        return distinct(read_label(file).array)
    if is_masks(file):  # to look into all of them takes long; planning says what is in no case
        return {segment.name for segment in segments}
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
            f"{folder}: segments are named {first_of(numbered, 10)}; 3D Slicer counts them in each file by itself, and "
            "segments of the same name are one label: check that they show the same in every case"
        )
    ignore = len(labels) + 1 if any(name.lower() == IGNORE for name in general) else None
    return LabelScheme(((BACKGROUND, 0), *((name, value) for value, name in enumerate(labels, 1))), ignore=ignore)
