"""The header of a file, and the type of its values in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg_transfer.data.geometry import Grid


@dataclass(frozen=True, eq=False)
class Header:
    """A file's grid, in its own axis order, and the type of its values.

    Attributes:
        grid: The voxel grid ``(i, j, k)``.
        channels: Values per voxel.
        dtype: Type of the values; integers that the file scales by a factor count as float.
    """

    grid: Grid
    channels: int
    dtype: np.dtype

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
        The stored type for integers of up to 16 bits (labels: 32), int32 for longer integers of labels, else float32.
    """
    if stored.kind in "iu":
        if stored.itemsize <= (4 if label else 2):
            return stored.newbyteorder("=")
        if label:
            return np.dtype(np.int32)
    return np.dtype(np.float32)


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
