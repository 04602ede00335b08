"""Sliding-window prediction of a volume, slab by slab.

:mod:`~seg_transfer.inference.windows` says where windows lie and how they are weighted. ``bench/sliding_window.py``
compares this with MONAI's.

Windows ascend along one axis. Slices that no later window reaches are finished and yielded, so that sums are held for
about one patch's length of that axis; see :func:`predict_slabs` for the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.data.geometry import Box
from seg_transfer.inference.windows import (
    SIGMA,
    add_weights,
    group_windows,
    mirrorings,
    outer,
    over_box,
    overlap,
    window_starts,
    written_shape,
)
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.preprocessing.extent import Extent, unknown_position

NetworkFn = Callable[[Tensor], Tensor]
"""``(batch, channel, slice, u, v)`` -> probabilities ``(batch, output, slice out, u, v)`` float32, or any other outputs
that may be averaged; 1 slice out in 2D and 2.5D. The caller may change them in place."""


@dataclass(frozen=True)
class Part:
    """A box of a volume that is predicted by itself, with the windows that the whole volume has.

    Attributes:
        shape: ``(slice, u, v)`` of the volume.
        origin: First voxel of the array that is given, which holds all windows that reach into the box.
        box: The box.
    """

    shape: Triple
    origin: Triple
    box: Box

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Part:
        """All of a volume."""
        s, u, v = shape
        return cls((s, u, v), (0, 0, 0), (slice(0, s), slice(0, u), slice(0, v)))

    @property
    def size(self) -> Triple:
        """Voxels of the box."""
        s, u, v = (part.stop - part.start for part in self.box)
        return s, u, v


@torch.inference_mode()
def predict_slabs(
    network: NetworkFn,
    array: Tensor,
    model: ModelPlan,
    outputs: int,
    *,
    axis: int,
    tta_axes: Sequence[int] = (),
    batch: int = 1,
    extent: Extent | None = None,
    part: Part | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Probabilities of every output at every voxel, in slabs along one axis.

    Outside the volume a patch has zeros, and a 2.5D stack repeats the edge slice, as in training
    (``training/batches.py``).

    Beside the windows of one call of the network, memory holds ``4 * outputs`` bytes per voxel of the slices that the
    windows of one call span. With :func:`~seg_transfer.inference.windows.longest_axis` and one window per call, that is
    at most ``2 * outputs`` bytes per voxel of a volume that is twice as long as the patch along any axis; smaller ones
    have less than eight patches.

    Args:
        network: Maps windows to probabilities, on any device and at any precision; sums are float32.
        array: ``(channel, slice, u, v)``; slabs are on its device.
        model: The plan's model: configuration and patch.
        outputs: Number of outputs of the network.
        axis: Axis of ``(slice, u, v)`` along which slabs follow each other.
        tta_axes: Axes of ``(slice, u, v)`` to mirror; probabilities are averaged over all combinations.
        batch: Windows per call of the network.
        extent: Where the content lies, for a model that reads positions; None if it is not known.
        part: The box to predict, if ``array`` is a part of the volume that holds its windows; None for all.

    Yields:
        First index of the slab along the axis, and the slab ``(output, slice, u, v)`` float32, complete along the other
        axes and valid until the next one is requested. All slabs together cover the volume, or the box of the part,
        from whose first voxel they are counted.
    """
    part = part or Part.whole(array.shape[1:])
    shape, written = part.size, written_shape(model)
    weights = [_gaussian(window) for window in written]
    starts, sums = [], []
    for size, window, weight, inside in zip(part.shape, written, weights, part.box, strict=True):
        placed = window_starts(size, window)
        sums.append(add_weights(torch.zeros(size), placed, weight)[inside].to(array.device))
        starts.append([start - inside.start for start in over_box(placed, window, inside.start, inside.stop)])
    weight = outer(weights).to(array.device)
    reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
    calls = group_windows(starts, axis, batch)
    depth = max(min(call[-1][axis] + written[axis], shape[axis]) - max(call[0][axis], 0) for call in calls)
    held = torch.zeros((outputs, *(depth if a == axis else size for a, size in enumerate(shape))), device=array.device)
    base = 0
    for corners in calls:
        lowest = max(corners[0][axis], 0)
        if lowest > base:
            yield base, _finished(held, sums, axis, base, lowest)
            _shift_sums(held, axis + 1, lowest - base)
            base = lowest
        windows = torch.stack([_input(array, (s - reach, u, v), model, extent, part) for s, u, v in corners])
        for corner, probabilities in zip(corners, mean_of_mirrored(network, windows, tta_axes).to(held), strict=True):
            _add(held, probabilities, weight, corner, axis, base, shape)
    yield base, _finished(held, sums, axis, base, shape[axis])


def join_slabs(slabs: Iterable[tuple[int, Tensor]], outputs: int, shape: Sequence[int], *, axis: int) -> Tensor:
    """Slabs that cover a volume of ``shape`` as one tensor ``(output, slice, u, v)`` float32 on the CPU."""
    volume = torch.empty((outputs, *shape))
    for start, slab in slabs:
        volume.narrow(axis + 1, start, slab.shape[axis + 1]).copy_(slab)
    return volume


@torch.inference_mode()
def mean_slabs(streams: Sequence[Iterator[tuple[int, Tensor]]], *, axis: int) -> Iterator[tuple[int, Tensor]]:
    """Mean of several :func:`predict_slabs` of one volume along one axis, whose slabs may differ in depth.

    Yields:
        Slabs as deep as the shallowest finished one; the memory of the first stream is overwritten.
    """
    dim, base = axis + 1, 0
    rests: list[Tensor | None] = [None] * len(streams)  # of each stream the part of its slab that is not yet used
    while True:
        slabs: list[Tensor] = []
        for stream, rest in zip(streams, rests, strict=True):
            if rest is None and (following := next(stream, None)) is not None:
                rest = following[1]
            if rest is None:
                return
            slabs.append(rest)
        depth = min(slab.shape[dim] for slab in slabs)
        total = slabs[0].narrow(dim, 0, depth)
        for slab in slabs[1:]:
            total.add_(slab.narrow(dim, 0, depth).to(total.device))
        yield base, total.div_(len(slabs))
        base += depth
        rests = [
            slab.narrow(dim, depth, slab.shape[dim] - depth) if slab.shape[dim] > depth else None for slab in slabs
        ]


def read_window(volume: Tensor, corner: Triple, size: Triple, *, repeats: bool) -> Tensor:
    """A window of a volume, padded with zeros where it reaches beyond it.

    Args:
        volume: ``(channel, slice, u, v)``.
        corner: First voxel of the window, which may be outside.
        size: Size ``(slice, u, v)`` of the window.
        repeats: Pad with the edge slice along the slice axis, as in 2.5D.
    """
    inside = [slice(max(c, 0), min(c + n, limit)) for c, n, limit in zip(corner, size, volume.shape[1:], strict=True)]
    around = [(part.start - c, c + n - part.stop) for part, c, n in zip(inside, corner, size, strict=True)]
    if repeats and any(around[0]):
        index = torch.arange(corner[0], corner[0] + size[0], device=volume.device).clamp(0, volume.shape[1] - 1)
        window = volume[:, :, inside[1], inside[2]].index_select(1, index)
        around[0] = (0, 0)
    else:
        window = volume[:, inside[0], inside[1], inside[2]]
    pads = [pad for pair in reversed(around) for pad in pair]
    return functional.pad(window, pads) if any(pads) else window


def _input(array: Tensor, corner: Triple, model: ModelPlan, extent: Extent | None, part: Part) -> Tensor:
    """The network's input for one window of a part: the image, and position maps if the model reads them."""
    s, u, v = (at + inside.start for at, inside in zip(corner, part.box, strict=True))
    origin = part.origin
    corner = (s - origin[0], u - origin[1], v - origin[2])
    window = read_window(array, corner, model.patch, repeats=model.configuration == "2.5d")
    if not model.position:
        return window
    maps = unknown_position(model.patch) if extent is None else extent.position((s, u, v), model.patch)
    return torch.cat([window, torch.from_numpy(maps).to(window)])


def _gaussian(size: int) -> Tensor:
    distance = (torch.arange(size) - (size - 1) / 2) / (SIGMA * size)
    return torch.exp(-0.5 * distance**2)


def mean_of_mirrored(network: NetworkFn, windows: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean outputs over all mirrorings along axes of the windows ``(batch, channel, ...)``, the first of which is 0."""
    total = network(windows)
    flips = mirrorings(axes)
    for flip in flips:
        dims = [axis + 2 for axis in flip]
        total = total.add_(network(windows.flip(dims)).flip(dims))
    return total.div_(1 + len(flips)) if flips else total


def _add(
    held: Tensor, probabilities: Tensor, weight: Tensor, corner: Triple, axis: int, base: int, shape: Sequence[int]
) -> None:
    """Add a window's weighted probabilities ``(output, slice, u, v)`` to the sums, which start at ``base``."""
    target, source = overlap(corner, probabilities.shape[1:], shape, axis=axis, base=base)
    held[:, *target].addcmul_(probabilities[:, *source], weight[source])


def _finished(held: Tensor, sums: Sequence[Tensor], axis: int, first: int, stop: int) -> Tensor:
    """View of the sums up to ``stop``, divided by those of the weights."""
    weights = [each[first:stop] if a == axis else each for a, each in enumerate(sums)]
    return held.narrow(axis + 1, 0, stop - first).div_(outer(weights))


def _shift_sums(held: Tensor, dim: int, count: int) -> None:
    """Shift the sums by ``count`` slices to the front and set the new ones to zero, in place."""
    remaining = held.shape[dim] - count
    for first in range(0, remaining, count):  # in pieces, so that source and target do not overlap
        size = min(count, remaining - first)
        held.narrow(dim, first, size).copy_(held.narrow(dim, first + count, size))
    held.narrow(dim, remaining, count).zero_()
