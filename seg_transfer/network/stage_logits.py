"""Scores of a linear map of an encoder stage's features, at every voxel of the input.

An affine map commutes with linear interpolation, whose weights add up to 1: scores are computed on the stage's own map
and only then interpolated to the voxels, which gives what the features interpolated to each voxel would, at a fraction
of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stage_logits(
    maps: Tensor, weight: Tensor, sizes: Sequence[int], *, stride: Sequence[int], centre: Sequence[float]
) -> Tensor:
    """What one stage contributes to the scores ``(batch, score, slice, u, v)`` float32.

    Args:
        maps: ``(batch, feature, slice, u, v)`` of the stage.
        weight: ``(score, feature)`` float32.
        sizes: ``(slice, u, v)`` of the result.
        stride: Of the maps, ``(slice, u, v)``.
        centre: Where in the input the first map voxel is centred.
    """
    scores = torch.einsum("of,bfsuv->bosuv", weight, maps.float())
    for axis, size in enumerate(sizes):
        linear = _interpolation(maps.shape[axis + 2], size, stride[axis], centre[axis]).to(scores)
        scores = torch.tensordot(scores, linear, dims=([2], [1]))  # the new axis goes last, so that each has its turn
    return scores


def _interpolation(short: int, long: int, stride: int, centre: float) -> Tensor:
    """Matrix ``(long, short)`` that interpolates linearly between map voxels; beyond the outermost these count."""
    place = ((torch.arange(long) - centre) / stride).clamp(0, short - 1)
    return (1 - (place[:, None] - torch.arange(short)).abs()).clamp(min=0)
