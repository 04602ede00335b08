"""The header of a file, and the type of its values in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from seg_transfer.data.geometry import Grid, grid_difference
from seg_transfer.errors import UserError
from seg_transfer.util.units import bytes_text

IN_MEMORY = "the image"
"""What messages call an image that was not read from a file."""


@dataclass(frozen=True)
class Segment:
    """One segment of a 3D Slicer segmentation, or one mask of a folder of them.

    Attributes:
        name: What it shows, such as liver; the same in all files, unlike its value.
        layer: Index of the channel that holds it.
        value: Value of its voxels in this layer; another segment may have the same value in another layer.
    """

    name: str
    layer: int
    value: int


@dataclass(frozen=True, eq=False)
class Header:
    """A file's grid, in its own axis order, and the type of its values.

    Attributes:
        grid: The voxel grid ``(i, j, k)``.
        channels: Values per voxel.
        dtype: Type of the values; integers that the file scales by a factor count as float.
        apart: Of a NIfTI file: how far its qform (pixdim, without a qform) places a corner from where its sform does,
            in mm; 0 if they agree.
        segments: Of a 3D Slicer segmentation, whose channels are layers, and of a folder of masks; None for any other
            file.
    """

    grid: Grid
    channels: int
    dtype: np.dtype
    apart: float = 0.0
    segments: tuple[Segment, ...] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the file's own ``(i, j, k)``."""
        return self.grid.shape

    @property
    def affine(self) -> np.ndarray:
        """4 x 4, voxel ``(i, j, k)`` -> world (RAS+)."""
        return self.grid.affine


def working_dtype(stored: np.dtype, *, label: bool) -> np.dtype:
    """The type of values in memory: the stored one if it is small, so that CT takes two bytes per voxel.

    Args:
        stored: Type of the values on disk.
        label: Whether the file is a label map, whose values are whole numbers.

    Returns:
        The stored type for integers of up to 16 bits (labels: 32), int32 for longer integers of labels, doubles for
        doubles of labels, since float32 rounds numbers from 2^24 on, else float32.
    """
    if stored.kind in "iu":
        if stored.itemsize <= (4 if label else 2):
            return stored.newbyteorder("=")
        if label:
            return np.dtype(np.int32)
    return np.dtype(np.float64 if label and stored.kind == "f" and stored.itemsize == 8 else np.float32)


def check_free_memory(header: Header, working: np.dtype, path: Path) -> None:
    """Refuse a file whose values do not fit into free memory, before any is allocated.

    Raises:
        UserError: If they do not.
    """
    needed = math.prod(header.shape) * header.channels * working.itemsize
    free = psutil.virtual_memory().available
    if needed > free:
        what = f"its {header.channels} x {' x '.join(map(str, header.shape))} values need {bytes_text(needed)}"
        hint = "cut the image down to the part that matters, or use a machine with more memory"
        raise UserError(f"{what}; {bytes_text(free)} are free", where=path, hint=hint)


def check_same_grid(first: Header, other: Header, first_path: Path, path: Path) -> None:
    """Refuse a channel of a case that lies on another grid than its first one.

    Raises:
        UserError: If it does.
    """
    if difference := grid_difference(first.grid, other.grid):
        hint = "resample the channels of a case to one grid"
        raise UserError(f"does not lie on the grid of {first_path.name}: {difference}", where=path, hint=hint)


def converted(array: np.ndarray, working: np.dtype) -> np.ndarray:
    """The values with the type ``working``.

    Raises:
        ValueError: If values do not fit into int32.
    """
    if working == np.int32 and array.dtype.itemsize > 4:
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(f"label values from {array.min()} to {array.max()} need more than 32 bits")
    return array.astype(working, copy=False)
