"""A whole volume through a network that reads patches.

Overlapping windows of the patch's size, because the decoder's instance norms were trained at that size; each window's
probabilities count with a Gaussian weight that trusts the centre more than the border (sigma 1/8 of the patch, overlap
one half: Isensee et al., nnU-Net, Nature Methods 2021). ``bench/sliding_window.py`` compares it with MONAI's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import ModelPlan, Triple

OVERLAP = 0.5
SIGMA = 1 / 8

NetworkFn = Callable[[Tensor], Tensor]
"""``(batch, channel, slice, u, v)`` -> scores ``(batch, output, slice out, u, v)``; 1 slice out in 2D and 2.5D."""


@torch.inference_mode()
def predict_volume(
    network: NetworkFn,
    array: Tensor,
    model: ModelPlan,
    classes: int,
    *,
    tta_axes: Sequence[int] = (),
    batch: int = 1,
) -> Tensor:
    """Scores of every output at every voxel.

    Where the patch reaches beyond the volume there are zeros, where in 2.5D the stack around a slice does, the edge
    slice is repeated: as in training (``training/batches.py``).

    Args:
        network: Maps windows to scores. It may compute elsewhere and at lower precision; sums are kept in float32.
        array: ``(channel, slice, u, v)``; the result lies on its device.
        model: Says configuration and patch.
        classes: Number of outputs.
        tta_axes: Axes of ``(slice, u, v)`` to mirror; scores are averaged over all combinations.
        batch: Windows per call of the network.

    Returns:
        ``(output, slice, u, v)`` float32.
    """
    volume, inner = _padded(array, model)
    read, written = model.patch, written_shape(model)
    shape = (volume.shape[1] - read[0] + written[0], volume.shape[2], volume.shape[3])
    total = torch.zeros((classes, *shape), device=array.device)
    weight_total = torch.zeros(shape, device=array.device)
    weight = gaussian(written).to(array.device)
    for corners in _batches(window_corners(shape, written), batch):
        windows = torch.stack([_window(volume, corner, read) for corner in corners])
        probabilities = _mirrored(network, windows, tta_axes).to(total)
        for corner, window in zip(corners, probabilities, strict=True):
            _window(total, corner, written).add_(window * weight)
            _window(weight_total, corner, written).add_(weight)
    total /= weight_total
    return total[(slice(None), *inner)]


def gaussian(patch: Triple) -> Tensor:
    """Weight ``(slice, u, v)`` of every voxel of a patch, 1 at the centre; an axis of one voxel weighs 1."""
    weight = torch.ones(())
    for size in patch:
        distance = (torch.arange(size) - (size - 1) / 2) / (SIGMA * size)
        weight = weight[..., None] * torch.exp(-0.5 * distance**2)
    return weight


def window_corners(shape: Sequence[int], patch: Sequence[int]) -> list[Triple]:
    """Lowest corners of windows that cover the shape evenly and overlap by at least one half.

    Args:
        shape: At least the patch along every axis.
        patch: Size of a window; windows of one slice do not overlap.
    """
    starts = []
    for size, window in zip(shape, patch, strict=True):
        steps = math.ceil((size - window) / max(1, int(window * (1 - OVERLAP))))
        starts.append([round(step * (size - window) / max(1, steps)) for step in range(steps + 1)])
    return [(s, u, v) for s, u, v in itertools.product(*starts)]


def written_shape(model: ModelPlan) -> Triple:
    """Size of what the network gives for one patch."""
    return model.patch if model.configuration == "3d" else (1, model.patch[1], model.patch[2])


def _padded(array: Tensor, model: ModelPlan) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """The volume with windows fitting everywhere, and where it lies in the result."""
    inner = []
    for axis, (size, window) in enumerate(zip(array.shape[1:], model.patch, strict=True)):
        if axis == 0 and model.configuration == "2.5d":
            before = after = window // 2
            inner.append(slice(0, size))
        else:
            missing = max(0, window - size)
            before, after = missing // 2, missing - missing // 2
            inner.append(slice(before, before + size))
        if not (before or after):
            continue
        if axis == 0 and model.configuration == "2.5d":
            index = torch.arange(-before, size + after, device=array.device).clamp(0, size - 1)
            array = array.index_select(1, index)
        else:
            array = functional.pad(array, [0, 0] * (2 - axis) + [before, after])
    return array, (inner[0], inner[1], inner[2])


def _window(volume: Tensor, corner: Triple, size: Triple) -> Tensor:
    """View of one window of ``(..., slice, u, v)``."""
    (s, u, v), (slices, height, width) = corner, size
    return volume[..., s : s + slices, u : u + height, v : v + width]


def _mirrored(network: NetworkFn, windows: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean probabilities over all mirrorings; ``windows`` is ``(batch, channel, slice, u, v)``."""
    flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]
    total = None
    for flip in flips:
        dims = [axis + 2 for axis in flip]
        probabilities = network(windows.flip(dims)).flip(dims)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None, "there is always the flip that mirrors nothing"
    return total / len(flips)


def _batches(corners: list[Triple], size: int) -> Iterator[list[Triple]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]
