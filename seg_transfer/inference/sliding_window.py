"""Sliding-window prediction of a whole volume, slab by slab.

Windows have the patch's size, because the decoder's instance norms were trained at that size, and overlap. Each
window's probabilities have a Gaussian weight that is highest in the centre (sigma 1/8 of the patch, overlap one half:
Isensee et al., nnU-Net, Nature Methods 2021). ``bench/sliding_window.py`` compares it with MONAI's.

Windows are visited along one axis from its beginning to its end. Slices that no later window reaches are finished and
handed out, so that sums are held for about one patch's length of that axis and not for the volume. For the memory see
:func:`predict_slabs`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan

OVERLAP = 0.5
SIGMA = 1 / 8

NetworkFn = Callable[[Tensor], Tensor]
"""``(batch, channel, slice, u, v)`` -> probabilities ``(batch, output, slice out, u, v)`` float32, which
the caller may change in place; 1 slice out in 2D and 2.5D. Any other outputs that may be averaged are treated alike."""


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
) -> Iterator[tuple[int, Tensor]]:
    """Probabilities of every output at every voxel, in slabs along one axis.

    Where the patch reaches beyond the volume there are zeros, where in 2.5D the stack around a slice does, the edge
    slice is repeated: as in training (``training/batches.py``).

    Beside the windows of one call of the network, memory holds ``4 * outputs`` bytes for every voxel within as many
    slices as the windows of one call span. With :func:`longest_axis`, and one window a call, these are at most half of
    a volume that is twice as long as the patch along any axis: ``2 * outputs`` bytes per voxel of the volume. A smaller
    one has fewer voxels than eight patches.

    Args:
        network: Maps windows to probabilities, on any device and at any precision; sums are kept in float32.
        array: ``(channel, slice, u, v)``; the slabs lie on its device.
        model: Says configuration and patch.
        outputs: Values that the network gives per voxel.
        axis: Axis of ``(slice, u, v)`` along which slabs follow each other.
        tta_axes: Axes of ``(slice, u, v)`` to mirror; probabilities are averaged over all combinations.
        batch: Windows per call of the network.

    Yields:
        The slab's first index along the axis, and the slab ``(output, slice, u, v)`` float32, which is whole along the
        other axes and valid until the next one is asked for. Together they cover the volume.
    """
    shape, written = array.shape[1:], written_shape(model)
    starts = [window_starts(size, window) for size, window in zip(shape, written, strict=True)]
    weights = [_gaussian(window) for window in written]
    sums = [_sum_along(size, starts[a], weights[a]).to(array.device) for a, size in enumerate(shape)]
    weight = _outer(weights).to(array.device)
    reach = model.patch[0] // 2 if model.configuration == "2.5d" else 0
    calls = _calls(starts, axis, batch)
    depth = max(min(call[-1][axis] + written[axis], shape[axis]) - max(call[0][axis], 0) for call in calls)
    held = torch.zeros((outputs, *(depth if a == axis else size for a, size in enumerate(shape))), device=array.device)
    base = 0
    for corners in calls:
        lowest = max(corners[0][axis], 0)
        if lowest > base:
            yield base, _finished(held, sums, axis, base, lowest)
            _move_down(held, axis + 1, lowest - base)
            base = lowest
        windows = torch.stack(
            [read_window(array, (s - reach, u, v), model.patch, repeats=reach > 0) for s, u, v in corners]
        )
        for corner, probabilities in zip(corners, _mirrored(network, windows, tta_axes).to(held), strict=True):
            _add(held, probabilities, weight, corner, axis, base, shape)
    yield base, _finished(held, sums, axis, base, shape[axis])


def joined(slabs: Iterable[tuple[int, Tensor]], outputs: int, shape: Sequence[int], *, axis: int) -> Tensor:
    """Slabs that cover a volume of ``shape`` as one tensor ``(output, slice, u, v)`` float32 on the CPU."""
    result = torch.empty((outputs, *shape))
    for start, slab in slabs:
        result.narrow(axis + 1, start, slab.shape[axis + 1]).copy_(slab)
    return result


@torch.inference_mode()
def mean_slabs(streams: Sequence[Iterator[tuple[int, Tensor]]], *, axis: int) -> Iterator[tuple[int, Tensor]]:
    """The mean of several :func:`predict_slabs` of one volume along one axis, whose slabs may be of different depth.

    Yields:
        Slabs as deep as all streams have finished; the first stream's memory is written over.
    """
    dim, base = axis + 1, 0
    rests: list[Tensor | None] = [None] * len(streams)
    while True:
        ready: list[Tensor] = []
        for stream, rest in zip(streams, rests, strict=True):
            if rest is None and (slab := next(stream, None)) is not None:
                rest = slab[1]
            if rest is None:
                return
            ready.append(rest)
        count = min(rest.shape[dim] for rest in ready)
        total = ready[0].narrow(dim, 0, count)
        for rest in ready[1:]:
            total.add_(rest.narrow(dim, 0, count).to(total.device))
        yield base, total.div_(len(ready))
        base += count
        rests = [
            rest.narrow(dim, count, rest.shape[dim] - count) if rest.shape[dim] > count else None for rest in ready
        ]


def longest_axis(shape: Sequence[int], models: Sequence[ModelPlan]) -> int:
    """The axis of ``(slice, u, v)`` along which a volume is the longest, counted in windows; ties go to the first.

    Several models that predict together each hold their own windows' slices: the sum of their windows counts.
    """
    return max(range(3), key=lambda axis: shape[axis] / sum(written_shape(model)[axis] for model in models))


def window_starts(size: int, window: int) -> list[int]:
    """Where windows begin that cover an axis evenly and overlap by at least one half.

    Args:
        size: Voxels along the axis; below the window there is one window with the volume in its middle.
        window: Voxels of a window; windows of one slice do not overlap.
    """
    if size < window:
        return [-((window - size) // 2)]
    steps = math.ceil((size - window) / max(1, int(window * (1 - OVERLAP))))
    return [round(step * (size - window) / max(1, steps)) for step in range(steps + 1)]


def written_shape(model: ModelPlan) -> Triple:
    """Size of what the network gives for one patch."""
    return model.patch if model.configuration == "3d" else (1, model.patch[1], model.patch[2])


def read_window(volume: Tensor, corner: Triple, size: Triple, *, repeats: bool) -> Tensor:
    """One window of a volume, filled where it reaches beyond it.

    Args:
        volume: ``(channel, slice, u, v)``.
        corner: The window's first voxel; may lie outside.
        size: The window's.
        repeats: Fill with the edge slice along the slice axis, as in 2.5D; everything else is filled with zeros.
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


def _gaussian(size: int) -> Tensor:
    distance = (torch.arange(size) - (size - 1) / 2) / (SIGMA * size)
    return torch.exp(-0.5 * distance**2)


def _outer(factors: Sequence[Tensor]) -> Tensor:
    first, second, third = factors
    return first[:, None, None] * second[:, None] * third


def _sum_along(size: int, starts: Sequence[int], weight: Tensor) -> Tensor:
    """What the weights of all windows add up to along one axis; of three axes, their product is that of a voxel."""
    total = torch.zeros(size)
    for start in starts:
        first, stop = max(start, 0), min(start + len(weight), size)
        total[first:stop] += weight[first - start : stop - start]
    return total


def _calls(starts: Sequence[Sequence[int]], axis: int, batch: int) -> list[list[Triple]]:
    """Corners of the windows, ascending along the axis, in groups for one call of the network each."""
    corners = sorted(((s, u, v) for s, u, v in itertools.product(*starts)), key=lambda corner: corner[axis])
    return [corners[first : first + batch] for first in range(0, len(corners), batch)]


def _mirrored(network: NetworkFn, windows: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean probabilities over all mirrorings; ``windows`` is ``(batch, channel, slice, u, v)``."""
    total = network(windows)
    flips = [flip for count in range(1, len(axes) + 1) for flip in itertools.combinations(axes, count)]
    for flip in flips:
        dims = [axis + 2 for axis in flip]
        total = total.add_(network(windows.flip(dims)).flip(dims))
    return total.div_(1 + len(flips)) if flips else total


def _add(
    held: Tensor, probabilities: Tensor, weight: Tensor, corner: Triple, axis: int, base: int, shape: Sequence[int]
) -> None:
    """Add one window's weighted probabilities ``(output, slice, u, v)`` to the sums, of which ``base`` comes first."""
    source, target = [slice(None)], [slice(None)]
    for a, (start, size) in enumerate(zip(corner, shape, strict=True)):
        first, stop = max(start, 0), min(start + probabilities.shape[a + 1], size)
        shift = base if a == axis else 0
        source.append(slice(first - start, stop - start))
        target.append(slice(first - shift, stop - shift))
    held[tuple(target)].addcmul_(probabilities[tuple(source)], weight[tuple(source[1:])])


def _finished(held: Tensor, sums: Sequence[Tensor], axis: int, first: int, stop: int) -> Tensor:
    """View of the first slices, their sums divided by those of the weights."""
    weights = [each[first:stop] if a == axis else each for a, each in enumerate(sums)]
    return held.narrow(axis + 1, 0, stop - first).div_(_outer(weights))


def _move_down(held: Tensor, dim: int, count: int) -> None:
    """Drop the first slices, move the others to their place and begin new ones at zero."""
    kept = held.shape[dim] - count
    for first in range(0, kept, count):  # pieces that do not overlap with where they go
        size = min(count, kept - first)
        held.narrow(dim, first, size).copy_(held.narrow(dim, first + count, size))
    held.narrow(dim, kept, count).zero_()
