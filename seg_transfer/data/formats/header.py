"""What a file says about itself before its voxels are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg_transfer.data.geometry import Grid


@dataclass(frozen=True, eq=False)
class Header:
    """A file's grid, in its own axis order, with what each voxel holds.

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
