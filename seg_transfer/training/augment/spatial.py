"""Transforms that move voxels of image and label; all but the mirror are composed into one interpolation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.fields import Spacing
from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment.transform import Array, Draw, Mask, Transform, per_sample, rows_of
from seg_transfer.training.losses import IGNORE

Matrices = NDArray[np.float64]
"""``(batch, 3, 3)`` from output to input positions (slice, u, v), relative to the centre."""


class Spatial(Transform):
    """Maps output positions to input positions, by a matrix or by a non-linear change of the sampling grid."""

    @abstractmethod
    def changed(self) -> Mask:
        """The samples ``(batch,)`` whose voxels move."""

    def matrices(self) -> Matrices:
        """The linear part; identity by default."""
        return _identity(len(self.changed()))

    def bend(self, grid: Tensor, samples: NDArray[np.intp], extent: NDArray[np.float64]) -> None:
        """Change the grid in place by the non-linear part; nothing by default.

        Args:
            grid: Sampling grid of :func:`_grid`.
            samples: Indices of its samples in the batch.
            extent: Size of the patch along (slice, u, v), in the spacing's unit.
        """


@dataclass(frozen=True)
class Rotation(Spatial):
    """Rotation about the patch's centre.

    Attributes:
        angles: ``(batch, 3)`` radians about the slice, u and v axis.
    """

    angles: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        angles = draw.within(plan.rotate_probability, np.deg2rad(plan.rotate_degrees), 3)
        if not plan.rotate_out_of_plane:
            angles[:, 1:] = 0
        return cls(angles)

    def changed(self) -> Mask:
        return (self.angles != 0).any(axis=1)

    def matrices(self) -> Matrices:
        total = _identity(len(self.angles))
        for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
            angle = self.angles[:, axis].astype(np.float64)
            rotation = _identity(len(angle))
            rotation[:, first, first] = rotation[:, second, second] = np.cos(angle)
            rotation[:, first, second], rotation[:, second, first] = np.sin(angle), -np.sin(angle)
            total = rotation @ total
        return total


@dataclass(frozen=True)
class Scale(Spatial):
    """Magnification about the patch's centre.

    Attributes:
        factors: ``(batch,)``.
    """

    factors: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.factor(plan.scale_probability, plan.scale_range))

    def changed(self) -> Mask:
        return self.factors != 1

    def matrices(self) -> Matrices:
        return _identity(len(self.factors)) / self.factors.astype(np.float64)[:, None, None]


@dataclass(frozen=True)
class Stretch(Spatial):
    """In-plane change of aspect ratio at constant area.

    Attributes:
        factors: ``(batch,)`` magnification along u over that along v.
    """

    factors: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.factor(plan.stretch_probability, plan.stretch_range))

    def changed(self) -> Mask:
        return self.factors != 1

    def matrices(self) -> Matrices:
        total, root = _identity(len(self.factors)), np.sqrt(self.factors.astype(np.float64))
        total[:, 1, 1], total[:, 2, 2] = 1 / root, root
        return total


@dataclass(frozen=True)
class Shear(Spatial):
    """In-plane shear of v towards u.

    Attributes:
        angles: ``(batch,)`` radians.
    """

    angles: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.within(plan.shear_probability, np.deg2rad(plan.shear_degrees)))

    def changed(self) -> Mask:
        return self.angles != 0

    def matrices(self) -> Matrices:
        total = _identity(len(self.angles))
        total[:, 1, 2] = np.tan(self.angles.astype(np.float64))
        return total


@dataclass(frozen=True)
class Lens(Spatial):
    """Radial distortion in-plane.

    Attributes:
        amounts: ``(batch,)``: a point at distance r from the centre, in half diagonals, is read from
            ``r * (1 + amount * r**2)``.
    """

    amounts: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.within(plan.lens_probability, plan.lens_amount))

    def changed(self) -> Mask:
        return self.amounts != 0

    def bend(self, grid: Tensor, samples: NDArray[np.intp], extent: NDArray[np.float64]) -> None:
        amounts = self.amounts[samples]
        if (rows := rows_of(amounts != 0, grid)) is None:
            return
        rank, shape = grid.shape[-1], list(grid.shape[1:-1])
        identity = torch.eye(rank, rank + 1, device=grid.device)[None]
        plane = functional.affine_grid(identity, [1, 1, *shape], align_corners=False)[..., :2]
        sides = torch.tensor(extent[:0:-1].copy(), dtype=torch.float32, device=grid.device)
        squared = (plane * sides).square().sum(-1, keepdim=True) / sides.square().sum()
        grid[rows, ..., :2] *= 1 + per_sample(amounts, rows, rank=rank + 2) * squared


@dataclass(frozen=True)
class Mirror(Transform):
    """Mirror images, without interpolation.

    Attributes:
        axes: ``(batch, 3)`` bool along (slice, u, v).
    """

    axes: Mask

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        axes = np.zeros((draw.batch, 3), bool)
        for axis in plan.mirror_axes:
            axes[:, axis] = draw.chosen(0.5)
        return cls(axes)

    def apply(self, image: Tensor, label: Tensor) -> None:
        """Mirror ``(batch, channel, slice, u, v)`` and ``(batch, slice, u, v)`` in place."""
        for axis in range(3):
            if (rows := rows_of(self.axes[:, axis], image)) is not None:
                image[rows] = image[rows].flip(axis + 2)
                label[rows] = label[rows].flip(axis + 1)


SPATIAL: tuple[type[Spatial], ...] = (Rotation, Scale, Stretch, Shear, Lens)
"""Matrices are multiplied in this order; :meth:`Spatial.bend` follows."""


def move(image: Tensor, label: Tensor, transforms: Sequence[Spatial], *, spacing: Spacing, out_of_plane: bool) -> None:
    """Resample image (linear) and label (nearest) in place; from outside come zeros and ``IGNORE``.

    Arguments are those of :func:`~seg_transfer.training.augment.registry.apply`.
    """
    transforms = [transform for transform in transforms if transform.changed().any()]
    if not transforms:
        return
    samples = np.flatnonzero(np.logical_or.reduce([transform.changed() for transform in transforms]))
    rows = torch.from_numpy(samples).to(image.device)
    moved, moved_label = image[rows], (label[rows] - IGNORE).float()  # shifted: zeros from outside mean IGNORE
    if out_of_plane:
        moved_label = moved_label.unsqueeze(1)
    else:
        moved = moved.flatten(1, 2)
    extent = np.array(image.shape[2:]) * np.array(spacing)
    grid = _grid(transforms, samples, tuple(moved.shape[2:]), extent, image.device)
    moved = functional.grid_sample(moved, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    moved_label = functional.grid_sample(moved_label, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image[rows] = moved.reshape(len(rows), *image.shape[1:])
    label[rows] = moved_label.reshape(len(rows), *label.shape[1:]).to(label.dtype) + IGNORE


def _grid(
    transforms: Sequence[Spatial],
    samples: NDArray[np.intp],
    shape: tuple[int, ...],
    extent: NDArray[np.float64],
    device: torch.device,
) -> Tensor:
    """Torch's sampling grid ``(sample, *shape, axis)`` in [-1, 1], the last axis first.

    Args:
        transforms: Spatial transforms of the whole batch.
        samples: Indices of the samples that change.
        shape: ``(slice, u, v)``, or ``(u, v)`` if all slices are transformed alike.
        extent: Size of the patch along (slice, u, v), in the spacing's unit.
        device: Device of the grid.
    """
    matrices = reduce(np.matmul, [transform.matrices()[samples] for transform in transforms])
    normalized = matrices[:, ::-1, ::-1] * extent[::-1][None, None, :] / extent[::-1][None, :, None]
    rank = len(shape)
    affine = torch.from_numpy(np.ascontiguousarray(normalized[:, :rank, :rank], np.float32)).to(device)
    grid = functional.affine_grid(functional.pad(affine, (0, 1)), [len(samples), 1, *shape], align_corners=False)
    for transform in transforms:
        transform.bend(grid, samples, extent)
    return grid


def _identity(count: int) -> Matrices:
    return np.tile(np.eye(3), (count, 1, 1))
