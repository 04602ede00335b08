"""The sliding window of :mod:`seg_transfer.inference.sliding_window` in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.inference.windows import (
    SIGMA,
    VOXELS_PER_CALL,
    add_weights,
    group_windows,
    mirrorings,
    outer,
    overlap,
    window_starts,
    written_shape,
)
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.preprocessing.extent import Extent, unknown_position

Floats = NDArray[np.float32]
Slab = tuple[int, Floats]
"""First index along an axis, and probabilities ``(output, slice, u, v)``."""


def predict_slabs(
    network: Callable[[Floats], Floats],
    array: Floats,
    model: ModelPlan,
    outputs: int,
    *,
    axis: int,
    tta_axes: Sequence[int] = (),
    extent: Extent | None = None,
) -> Iterator[Slab]:
    """Probabilities of every output at every voxel, in slabs along one axis.

    Args:
        network: ``(batch, channel, slice, u, v)`` -> probabilities ``(batch, output, slice out, u, v)``; 1 slice out in
            2D and 2.5D.
        array: ``(channel, slice, u, v)``.
        model: The plan's model: configuration and patch.
        outputs: Number of outputs of the network.
        axis: Axis of ``(slice, u, v)`` along which slabs follow each other.
        tta_axes: Axes of ``(slice, u, v)`` to mirror; probabilities are averaged over all combinations.
        extent: Where the content lies, for a model that reads positions; None if it is not known.

    Yields:
        First index of the slab along the axis, and the slab, complete along the other axes.
    """
    shape, written = array.shape[1:], written_shape(model)
    starts = [window_starts(size, window) for size, window in zip(shape, written, strict=True)]
    weights = [_gaussian(window) for window in written]
    sums = [add_weights(np.zeros(size, np.float32), starts[a], weights[a]) for a, size in enumerate(shape)]
    weight = outer(weights)
    reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
    held = np.zeros((outputs, *(0 if a == axis else size for a, size in enumerate(shape))), np.float32)
    base = 0
    for corners in group_windows(starts, axis, max(1, VOXELS_PER_CALL // math.prod(written))):
        lowest = max(corners[0][axis], 0)
        if lowest > base:
            yield base, _finished(held, sums, axis, base, lowest)
            held, base = _along(held, axis, slice(lowest - base, None)), lowest
        missing = min(corners[-1][axis] + written[axis], shape[axis]) - base - held.shape[axis + 1]
        if missing > 0:
            new = [missing if a == axis else size for a, size in enumerate(held.shape[1:])]
            held = np.concatenate([held, np.zeros((outputs, *new), np.float32)], axis + 1)
        windows = np.stack([_input(array, (s - reach, u, v), model, extent) for s, u, v in corners])
        for corner, probabilities in zip(corners, _mean_of_mirrored(network, windows, tta_axes), strict=True):
            _add(held, probabilities, weight, corner, axis, base, shape)
    yield base, _finished(held, sums, axis, base, shape[axis])


def _input(array: Floats, corner: Triple, model: ModelPlan, extent: Extent | None) -> Floats:
    """The network's input for one window: the image, and position maps if the model reads them."""
    window, size = array, model.patch
    for axis, (first, length) in enumerate(zip(corner, size, strict=True)):
        index = np.arange(first, first + length)
        known = index.clip(0, array.shape[axis + 1] - 1)
        window = window.take(known, axis + 1)
        if axis > 0 or model.configuration != "2.5d":  # a 2.5D stack repeats the edge slice; else zeros are outside
            window[(slice(None),) * (axis + 1) + (index != known,)] = 0
    if not model.position:
        return window
    maps = unknown_position(size) if extent is None else extent.position(corner, size)
    return np.concatenate([window, maps])


def _gaussian(size: int) -> Floats:
    distance = (np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)) / np.float32(SIGMA * size)
    return np.exp(np.float32(-0.5) * distance**2)


def _mean_of_mirrored(network: Callable[[Floats], Floats], windows: Floats, axes: Sequence[int]) -> Floats:
    """Mean probabilities over all mirrorings; ``windows`` is ``(batch, channel, slice, u, v)``."""
    total = network(windows)
    flips = mirrorings(axes)
    for flip in flips:
        dims = tuple(axis + 2 for axis in flip)
        total = total + np.flip(network(np.ascontiguousarray(np.flip(windows, dims))), dims)
    return total / np.float32(1 + len(flips))


def _add(
    held: Floats, probabilities: Floats, weight: Floats, corner: Triple, axis: int, base: int, shape: Sequence[int]
) -> None:
    """Add a window's weighted probabilities ``(output, slice, u, v)`` to the sums, which start at ``base``."""
    target, source = overlap(corner, probabilities.shape[1:], shape, axis=axis, base=base)
    held[:, *target] += probabilities[:, *source] * weight[source]


def _along(held: Floats, axis: int, part: slice) -> Floats:
    return held[(slice(None),) * (axis + 1) + (part,)]


def _finished(held: Floats, sums: Sequence[Floats], axis: int, first: int, stop: int) -> Floats:
    """The sums up to ``stop``, divided by those of the weights."""
    weights = [each[first:stop] if a == axis else each for a, each in enumerate(sums)]
    return _along(held, axis, slice(stop - first)) / outer(weights)
