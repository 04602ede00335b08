"""nnU-Net's sliding window, to the last rounding: logits are summed in float16, over the whole volume.

segtl's own (:mod:`seg_transfer.inference.sliding_window`) averages probabilities in float32; labels of voxels where two
logits are close would differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from seg_transfer.errors import UserError
from seg_transfer.inference.sliding_window import mean_of_mirrored, read_window
from seg_transfer.inference.windows import OVERLAP, SIGMA, overlap
from seg_transfer.planning.fields import Triple

PEAK = 10
"""Largest weight of a window's voxels: small ones would be zero in float16."""


@torch.inference_mode()
def predict_logits(
    network: nn.Module, array: Tensor, patch: Sequence[int], outputs: int, axes: Sequence[int]
) -> Tensor:
    """Logits at every voxel.

    Args:
        network: ``(batch, channel, *patch)`` -> logits.
        array: ``(channel, first, second, third)``, on the network's device.
        patch: Size of the network's input; of two axes, slices along the first axis are predicted one by one.
        outputs: Number of outputs.
        axes: Axes of the patch along which windows are mirrored; logits are averaged over all combinations.

    Returns:
        ``(output, first, second, third)`` float16, on the CPU.

    Raises:
        UserError: If logits are too large for float16.
    """
    shape, window = array.shape[1:], _triple(patch)
    weight = gaussian(patch).reshape(window).to(array.device)
    sums = torch.zeros((outputs, *shape), dtype=torch.half, device=array.device)
    weights = torch.zeros(shape, dtype=torch.half, device=array.device)
    starts = [tile_starts(size, length) for size, length in zip(shape, window, strict=True)]
    for first, second, third in itertools.product(*starts):
        corner = (first, second, third)
        part = read_window(array, corner, window, repeats=False)
        with torch.autocast(array.device.type, enabled=array.device.type == "cuda"):
            tile = mean_of_mirrored(network, part.reshape(1, -1, *patch), axes)[0].reshape(outputs, *window)
        held, read = overlap(corner, window, shape, axis=0, base=0)
        sums[:, *held] += tile.mul_(weight)[:, *read]
        weights[held] += weight[read]
    logits = sums.div_(weights).cpu()
    if not logits.isfinite().all():
        raise UserError("the network's outputs are not finite", hint="check the image, and the model's weights")
    return logits


def tile_starts(size: int, length: int) -> list[int]:
    """First voxels of windows along an axis; if it is shorter than a window, its voxels lie in the window's middle."""
    if size < length:
        return [-((length - size) // 2)]
    count = math.ceil((size - length) / (length * OVERLAP)) + 1
    return [int(np.round((size - length) / max(1, count - 1) * index)) for index in range(count)]


def gaussian(patch: Sequence[int]) -> Tensor:
    """Weights of a window's voxels, float16: a filtered peak, nowhere zero."""
    peak = np.zeros(tuple(patch))
    peak[tuple(length // 2 for length in patch)] = 1
    spread = ndimage.gaussian_filter(peak, [length * SIGMA for length in patch], mode="constant")
    weight = torch.from_numpy(spread / (spread.max() / PEAK)).half()
    weight[weight == 0] = weight[weight != 0].min()
    return weight


def _triple(patch: Sequence[int]) -> Triple:
    first, second, third = (1,) * (3 - len(patch)) + tuple(patch)
    return first, second, third
