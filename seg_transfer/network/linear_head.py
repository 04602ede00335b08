"""Logits of linear classifiers of an encoder's features, at every voxel of the input.

A linear map of all stages' features side by side is a 1x1 convolution of each stage, whose results are added. An affine
map commutes with linear interpolation, whose weights add up to 1: logits are computed on the stage's own map and only
then interpolated to the voxels. The result equals that of features interpolated to each voxel, at a fraction of the
cost. Standardizing, PCA and a linear classifier together are one affine map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearHead:
    """A linear map from the features of at least one stage of an encoder to logits.

    Attributes:
        weights: Stage -> ``(class, feature)`` float32; stages that are not read are absent.
        bias: ``(class,)`` float32.
    """

    weights: Mapping[int, Tensor]
    bias: Tensor


def head_logits(
    maps: Iterable[Tensor],
    heads: Sequence[LinearHead],
    sizes: Sequence[int],
    *,
    strides: Sequence[Sequence[int]],
    centres: Sequence[Sequence[float]],
) -> list[Tensor]:
    """Logits ``(batch, class, slice, u, v)`` float32 of each head; each stage is interpolated once for all heads.

    Args:
        maps: ``(batch, feature, slice, u, v)`` of each stage, finest first.
        heads: All with as many classes.
        sizes: ``(slice, u, v)`` of the result.
        strides: Of each stage's map, ``(slice, u, v)``.
        centres: Where in the input the first voxel of each stage's map is centred, ``(slice, u, v)``.
    """
    logits: list[Tensor] = [head.bias[None, :, None, None, None] for head in heads]
    for stage, features in enumerate(maps):
        readers = [index for index, head in enumerate(heads) if stage in head.weights]
        if not readers:
            continue
        weight = torch.cat([heads[index].weights[stage] for index in readers]).to(features.device)
        parts = _stage_logits(features, weight, sizes, strides[stage], centres[stage]).chunk(len(readers), dim=1)
        for index, part in zip(readers, parts, strict=True):
            logits[index] = logits[index].to(part.device) + part
    return logits


def _stage_logits(
    maps: Tensor, weight: Tensor, sizes: Sequence[int], stride: Sequence[int], centre: Sequence[float]
) -> Tensor:
    """What one stage adds to the logits, ``(batch, row, slice, u, v)``; weight is ``(row, feature)``."""
    logits = torch.einsum("of,bfsuv->bosuv", weight, maps.float())
    for axis, size in enumerate(sizes):
        linear = _interpolation(maps.shape[axis + 2], size, stride[axis], centre[axis]).to(logits)
        logits = torch.tensordot(logits, linear, dims=([2], [1]))  # puts the new axis last, so each gets its turn
    return logits


def _interpolation(short: int, long: int, stride: int, centre: float) -> Tensor:
    """Matrix ``(long, short)`` of linear interpolation between map voxels; the outermost ones extend beyond the map."""
    place = ((torch.arange(long) - centre) / stride).clamp(0, short - 1)
    return (1 - (place[:, None] - torch.arange(short)).abs()).clamp(min=0)
