"""Where the windows of a sliding window lie, for arrays of torch and of numpy alike; imports no torch.

Windows have the patch's size, at which the decoder's instance norms were trained, and overlap by one half. Their
probabilities are weighted by a Gaussian with sigma 1/8 of the patch (nnU-Net: Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from seg_transfer.data.geometry import Box
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan

Array = Any
"""A tensor of torch, or an array of numpy."""
OVERLAP = 0.5
SIGMA = 1 / 8
VOXELS_PER_CALL = 2**16
"""Windows are batched up to this many voxels: 16 windows of 64x64 in one call took a third of the time of 16 calls on
the CPU (``bench/sliding_window.py``)."""


def longest_axis(shape: Sequence[int], models: Sequence[ModelPlan]) -> int:
    """The axis of ``(slice, u, v)`` along which a volume has the most windows' lengths; ties go to the first.

    For several models the lengths of their windows are added, since each holds the slices of its windows.
    """
    return max(range(3), key=lambda axis: shape[axis] / sum(written_shape(model)[axis] for model in models))


def window_starts(size: int, window: int) -> list[int]:
    """First voxels of windows that cover an axis evenly and overlap by at least one half.

    Args:
        size: Voxels along the axis; if fewer than the window's, one window has the volume in its middle.
        window: Voxels of a window; windows of one slice do not overlap.
    """
    if size < window:
        return [-((window - size) // 2)]
    steps = math.ceil((size - window) / max(1, int(window * (1 - OVERLAP))))
    return [round(step * (size - window) / max(1, steps)) for step in range(steps + 1)]


def over_box(starts: Sequence[int], window: int, first: int, stop: int) -> list[int]:
    """The windows along an axis that reach into the voxels from ``first`` to ``stop``."""
    return [start for start in starts if start < stop and start + window > first]


def windows_box(shape: Sequence[int], box: Box, model: ModelPlan) -> Box:
    """The box that the windows of a box read of a volume ``(slice, u, v)``."""
    reach = (model.patch[0] // 2 if model.configuration == "2.5d" else 0, 0, 0)
    found = []
    for size, window, part, more in zip(shape, written_shape(model), box, reach, strict=True):
        starts = over_box(window_starts(size, window), window, part.start, part.stop)
        found.append(slice(max(0, starts[0] - more), min(size, starts[-1] + window + more)))
    return found[0], found[1], found[2]


def written_shape(model: ModelPlan) -> Triple:
    """Size ``(slice, u, v)`` of the network's output for one patch."""
    return model.patch if model.configuration == "3d" else (1, model.patch[1], model.patch[2])


def group_windows(starts: Sequence[Sequence[int]], axis: int, batch: int) -> list[list[Triple]]:
    """Corners of the windows, ascending along the axis, grouped by call of the network."""
    corners = sorted(((s, u, v) for s, u, v in itertools.product(*starts)), key=lambda corner: corner[axis])
    return [corners[first : first + batch] for first in range(0, len(corners), batch)]


def mirrorings(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All combinations of axes to mirror but that of none."""
    return [flip for count in range(1, len(axes) + 1) for flip in itertools.combinations(axes, count)]


def overlap(
    corner: Triple, window: Sequence[int], shape: Sequence[int], *, axis: int, base: int
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Parts of the sums and of a window that lie on each other.

    Args:
        corner: First voxel ``(slice, u, v)`` of the window, which may reach beyond the volume.
        window: Size of the window.
        shape: Size of the volume.
        axis: Axis along which the sums are held in part.
        base: First voxel of the sums along it.

    Returns:
        Slices of ``(slice, u, v)`` of the sums, and of the window.
    """
    held, read = [], []
    for a, (start, length, size) in enumerate(zip(corner, window, shape, strict=True)):
        first, stop = max(start, 0), min(start + length, size)
        shift = base if a == axis else 0
        held.append(slice(first - shift, stop - shift))
        read.append(slice(first - start, stop - start))
    return tuple(held), tuple(read)


def add_weights(total: Array, starts: Sequence[int], weight: Array) -> Array:
    """Add the weights of all windows along one axis to ``total``; the product over three axes is the sum at a voxel."""
    for start in starts:
        first, stop = max(start, 0), min(start + len(weight), len(total))
        total[first:stop] += weight[first - start : stop - start]
    return total


def outer(factors: Sequence[Array]) -> Array:
    """The product ``(slice, u, v)`` of one factor per axis."""
    first, second, third = factors
    return first[:, None, None] * second[:, None] * third
