"""Voxel grids of files, and conversion between a file's axis order and the canonical one.

World coordinates are RAS+ (x to the right, y to the front, z up). Canonical order ``(x, y, z)`` is the
permutation and flip of the file's axes ``(i, j, k)`` that comes closest to RAS+; voxels are never interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from nibabel.orientations import aff2axcodes, inv_ornt_aff, io_orientation

from seg_transfer.data.nifti_geometry import NiftiGeometry

Unit = Literal["mm", "pixel"]
Box = tuple[slice, slice, slice]
"""Part of a volume, axis by axis."""

GRID_TOLERANCE = 0.01
"""Two grids are the same if no corner differs by more than this many voxels along any axis: far below what a label
can show, and above the rounding of spacings that are written with six digits (0.005 voxels over 512 voxels)."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel grid of a file, in the file's own axis order.

    Attributes:
        shape: Voxels along ``(i, j, k)``.
        affine: 4 x 4, voxel ``(i, j, k)`` -> world (RAS+), in ``unit``.
        unit: "mm", or "pixel" for 2D images and TIFF stacks without a physical pixel size.
        flat: Whether the file has two axes only; ``k`` then has size 1 and is not written.
        nifti: Of a NIfTI file: the fields of its header that ``affine`` is from; they are written in place of it.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    unit: Unit = "mm"
    flat: bool = False
    nifti: NiftiGeometry | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along ``(i, j, k)``, in ``unit``."""
        return affine_spacing(self.affine)

    @property
    def orientation(self) -> str:
        """Direction of each axis, such as "RAS" or "LPS"."""
        return "".join(aff2axcodes(self.affine))

    def canonical(self) -> Grid:
        """The same voxels in canonical order ``(x, y, z)``."""
        orientation = io_orientation(self.affine)
        x, y, z = (self.shape[axis] for axis in np.argsort(orientation[:, 0]))
        return replace(self, shape=(x, y, z), affine=self.affine @ inv_ornt_aff(orientation, self.shape), nifti=None)


def affine_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance between voxel centres along each axis of an affine's grid, in the affine's unit."""
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def to_canonical(array: np.ndarray, native: Grid) -> np.ndarray:
    """View of ``(..., i, j, k)`` in the file's own order as canonical ``(..., x, y, z)``."""
    axes, flips = _axes(native)
    return np.flip(array, flips).transpose(*range(array.ndim - 3), *(np.argsort(axes) - 3 + array.ndim))


def to_native(array: np.ndarray, native: Grid) -> np.ndarray:
    """View of canonical ``(..., x, y, z)`` as the file's own ``(..., i, j, k)``; the inverse of to_canonical."""
    axes, flips = _axes(native)
    return np.flip(array.transpose(*range(array.ndim - 3), *(axes - 3 + array.ndim)), flips)


def _axes(native: Grid) -> tuple[np.ndarray, tuple[int, ...]]:
    """Canonical axis of each file axis, and the file axes that run in the opposite direction, counted from the end."""
    orientation = io_orientation(native.affine).astype(int)
    return orientation[:, 0], tuple(axis - 3 for axis in range(3) if orientation[axis, 1] < 0)


def grid_difference(reference: Grid, other: Grid) -> str | None:
    """Describe how ``other`` differs from ``reference`` in the world; None if it does not.

    Both are compared in canonical order, so that files of one case may have different orientations. Corners may differ
    by :data:`GRID_TOLERANCE` voxels of ``reference``.
    """
    first, second = reference.canonical(), other.canonical()
    if first.shape != second.shape:
        return f"its shape is {_sizes(second.shape)} (x, y, z), not {_sizes(first.shape)}"
    return _difference(first, second, np.zeros(3))


def offset_in(reference: Grid, other: Grid) -> tuple[np.ndarray, str | None]:
    """Where ``other``, a part of the world of any size, starts among the voxels of ``reference``.

    Returns:
        Whole voxels ``(x, y, z)`` from the first canonical voxel of ``reference`` to that of ``other``, as floats; and
        how the voxels of ``other`` differ from those of ``reference``, None if they do not by more than
        :data:`GRID_TOLERANCE`.
    """
    first, second = reference.canonical(), other.canonical()
    offset = np.rint(np.linalg.solve(first.affine, second.affine)[:3, 3])
    return offset, _difference(first, second, offset)


def _difference(first: Grid, second: Grid, offset: np.ndarray) -> str | None:
    """How ``second`` differs from the part of ``first`` at ``offset``, both canonical."""
    if first.unit != second.unit:
        return f"its spacing is in {second.unit}, not in {first.unit}"
    # A part of one voxel along an axis has to have the spacing of the whole nevertheless.
    ends = [size - 1 or min(whole - 1, 1) for whole, size in zip(first.shape, second.shape, strict=True)]
    corners = np.array([(*corner, 1) for corner in product(*((0, end) for end in ends))]).T
    found = np.linalg.solve(first.affine, second.affine @ corners)[:3]
    distance = np.abs(found - corners[:3] - offset[:, np.newaxis]).max()
    if distance <= GRID_TOLERANCE:
        return None
    if not np.allclose(first.spacing, second.spacing, rtol=1e-3):
        return f"its spacing is {_sizes(second.spacing)} {second.unit}, not {_sizes(first.spacing)}"
    return (
        f"its corners lie up to {distance:.3g} voxels off (origin or orientation differ; {GRID_TOLERANCE} is allowed)"
    )


def _sizes(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
