"""A folder of masks, one for each structure of a case, read as one label map whose segments have the files' names.

Its path stands for all files of an ending: ``s0001/segmentations/*.nii.gz``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from seg_transfer.data.formats.header import Header, Segment, check_same_grid
from seg_transfer.data.geometry import to_canonical, to_native
from seg_transfer.errors import UserError

EVERY = "*"
SEPARATORS = "-_. "


def is_masks(path: Path) -> bool:
    """Whether a path stands for a folder of masks."""
    return path.name.startswith(EVERY)


def masks_in(path: Path) -> list[Path]:
    """The masks' files, sorted by name."""
    ending = path.name.removeprefix(EVERY).lower()
    folder = path.parent
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.iterdir() if file.name.lower().endswith(ending) and not file.name.startswith(".")
    )


def header(path: Path, read_header: Callable[[Path], Header]) -> Header:
    """The first mask's grid, and a segment for each mask."""
    files = masks_in(path)
    patient, ending = path.parent.parent.name, len(path.name) - len(EVERY)
    segments = tuple(Segment(_structure(file.name[:-ending], patient), 0, value) for value, file in enumerate(files, 1))
    return Header(read_header(files[0]).grid, 1, np.min_scalar_type(len(files)), segments=segments)


def read(
    path: Path,
    read_header: Callable[[Path], Header],
    read_array: Callable[[Path], tuple[np.ndarray, Header]],
) -> tuple[np.ndarray, Header]:
    """Read ``(1, i, j, k)``: 0, or the number of the mask that a voxel is in.

    Raises:
        UserError: If masks have different grids, several values, or overlap.
    """
    whole = header(path, read_header)
    files = masks_in(path)
    array: np.ndarray | None = None
    for value, file in enumerate(files, 1):
        mask, own = read_array(file)
        check_same_grid(whole, own, files[0], file)
        if own.grid.orientation != whole.grid.orientation:
            mask = to_native(to_canonical(mask, own.grid), whole.grid)
        if array is None:
            array = np.zeros_like(mask[:1], whole.dtype)  # in the order of the file's voxels
        voxels, target = _in_order_of(array, mask).ravel(order="K"), array.ravel(order="K")
        inside = np.flatnonzero(voxels.view(bool) if voxels.itemsize == 1 else voxels)  # bytes take four times as long
        found = voxels[inside]
        if len(mask) != 1 or (found != found[:1]).any():
            hint = "a mask has one value beside 0; a file with several is a label map by itself"
            raise UserError("this is no mask of one structure", where=file, hint=hint)
        if others := target[inside].max(initial=0):
            what = (
                f"{np.count_nonzero(target[inside])} of its voxels are also in masks such as {files[others - 1].name}"
            )
            hint = "a voxel has one label: cut the masks, or merge nested ones into one label map with regions"
            raise UserError(what, where=file, hint=hint)
        target[inside] = value
    assert array is not None, "there is a mask"
    return array, whole


def _in_order_of(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mask with its voxels in the same order in memory, so that both can be gone through alike."""
    orders = [[stride // each.itemsize for stride in each.strides[1:]] for each in (array, mask)]
    if orders[0] == orders[1]:
        return mask
    same = np.empty_like(array, mask.dtype)
    same[...] = mask
    return same


def _structure(name: str, patient: str) -> str:
    """What a mask shows, without the patient's name."""
    for short, edge in ((name.removeprefix(patient), 0), (name.removesuffix(patient), -1)):
        if short != name and short.strip(SEPARATORS) and short[edge] in SEPARATORS:
            return short.strip(SEPARATORS)
    return name
