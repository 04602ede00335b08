"""Everything that moves voxels, in one interpolation: rotation, scaling, stretch, shear and lens; mirror."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.fields import Spacing
from seg_transfer.training.augment.parameters import Parameters
from seg_transfer.training.augment.rows import per_sample, rows_of
from seg_transfer.training.losses import IGNORE


def move(image: Tensor, label: Tensor, parameters: Parameters, spacing: Spacing, out_of_plane: bool) -> None:
    """Resample image (linear) and label (nearest) in place, with zeros and ``IGNORE`` from outside.

    An output position shows the input at ``lens(affine(position))``.

    Args:
        image: ``(batch, channel, slice, u, v)``.
        label: ``(batch, slice, u, v)``; one slice in 2.5D.
        parameters: What to do.
        spacing: Of (slice, u, v); rotations are rigid in it.
        out_of_plane: Move along the slice axis too; else every slice moves alike.
    """
    concerned = (parameters.angles != 0).any(axis=1) | (parameters.shear != 0) | (parameters.lens != 0)
    for factor in (parameters.scale, parameters.stretch):
        concerned |= factor != 1
    if (rows := rows_of(concerned, image)) is None:
        return
    moved, marked = image[rows], (label[rows] - IGNORE).float()  # shifted so that padding with zeros means IGNORE
    if out_of_plane:
        marked = marked.unsqueeze(1)
    else:
        moved = moved.flatten(1, 2)
    extent = np.array(image.shape[2:]) * np.array(spacing)
    grid = _grid(parameters, np.flatnonzero(concerned), tuple(moved.shape[2:]), extent, image.device)
    moved = functional.grid_sample(moved, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    marked = functional.grid_sample(marked, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image[rows] = moved.reshape(len(rows), *image.shape[1:])
    label[rows] = marked.reshape(len(rows), *label.shape[1:]).to(label.dtype) + IGNORE


def mirror(image: Tensor, label: Tensor, chosen: NDArray[np.bool_]) -> None:
    """Flip in place along each axis the samples chosen ``(batch, 3)``."""
    for axis in range(3):
        if (rows := rows_of(chosen[:, axis], image)) is not None:
            image[rows] = image[rows].flip(axis + 2)
            label[rows] = label[rows].flip(axis + 1)


def _grid(
    parameters: Parameters,
    samples: NDArray[np.intp],
    shape: tuple[int, ...],
    extent: NDArray[np.float64],
    device: torch.device,
) -> Tensor:
    """Where each output position looks: ``(sample, *shape, axis)``, as torch has it in [-1, 1], the last axis first.

    Args:
        parameters: Of the whole batch.
        samples: Those concerned.
        shape: ``(slice, u, v)``, or ``(u, v)`` where slices move alike.
        extent: Of the patch along (slice, u, v), in the spacing's unit.
        device: Where.
    """
    matrices = np.stack([_matrix(parameters, sample) for sample in samples])
    normalized = matrices[:, ::-1, ::-1] * extent[::-1][None, None, :] / extent[::-1][None, :, None]
    rank = len(shape)
    affine = torch.from_numpy(np.ascontiguousarray(normalized[:, :rank, :rank], np.float32)).to(device)
    grid = functional.affine_grid(functional.pad(affine, (0, 1)), [len(samples), 1, *shape], align_corners=False)
    lens = parameters.lens[samples]
    if (rows := rows_of(lens != 0, grid)) is not None:
        straight = torch.eye(rank, rank + 1, device=device)[None]
        plane = functional.affine_grid(straight, [1, 1, *shape], align_corners=False)[..., :2]
        sides = torch.tensor(extent[:0:-1].copy(), dtype=torch.float32, device=device)
        squared = (plane * sides).square().sum(-1, keepdim=True) / sides.square().sum()
        grid[rows, ..., :2] *= 1 + per_sample(lens, rows, rank=rank + 2) * squared
    return grid


def _matrix(parameters: Parameters, sample: int) -> NDArray[np.float64]:
    """Matrix from an output position to the input position it shows, both (slice, u, v) about the centre."""
    root = float(parameters.stretch[sample]) ** 0.5
    matrix = np.diag([1.0, 1 / root, root]) / float(parameters.scale[sample])
    matrix[1, 2] = np.tan(parameters.shear[sample]) * matrix[1, 1]
    for axis, angle in enumerate(parameters.angles[sample]):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix
