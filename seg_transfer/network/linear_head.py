"""Logits of linear classifiers on an encoder's features, at every voxel of the input.

A linear map of the concatenated features of all stages is a sum of 1x1 convolutions, one per stage. Affine maps commute
with linear interpolation, whose weights add up to 1, so logits are computed on each stage's map and then interpolated:
the same result as on interpolated features, at a fraction of the cost. Standardizing, PCA and a linear classifier
together are one affine map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearHead:
    """An affine map from the features of at least one stage to logits.

    Attributes:
        weights: Stage -> ``(class, feature)`` float32, of the stages that it uses.
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
        heads: Heads with equal numbers of classes.
        sizes: ``(slice, u, v)`` of the result.
        strides: ``(slice, u, v)`` of each stage.
        centres: ``(slice, u, v)`` of each stage, as :func:`~seg_transfer.transfer.centres.map_centres` gives them.
    """
    logits: list[Tensor] = [head.bias[None, :, None, None, None] for head in heads]
    for stage, features in enumerate(maps):
        users = [index for index, head in enumerate(heads) if stage in head.weights]
        if not users:
            continue
        weight = torch.cat([heads[index].weights[stage] for index in users]).to(features.device)
        parts = _stage_logits(features, weight, sizes, strides[stage], centres[stage]).chunk(len(users), dim=1)
        for index, part in zip(users, parts, strict=True):
            logits[index] = logits[index].to(part.device) + part
    return logits


def _stage_logits(
    maps: Tensor, weight: Tensor, sizes: Sequence[int], stride: Sequence[int], centre: Sequence[float]
) -> Tensor:
    """Contribution of one stage to the logits, ``(batch, row, slice, u, v)``; weight is ``(row, feature)``."""
    logits = torch.einsum("of,bfsuv->bosuv", weight, maps.float())
    for axis, size in enumerate(sizes):
        linear = _interpolation(maps.shape[axis + 2], size, stride[axis], centre[axis]).to(logits)
        logits = torch.tensordot(logits, linear, dims=([2], [1]))  # moves the axis to the end
    return logits


def _interpolation(map_size: int, size: int, stride: int, centre: float) -> Tensor:
    """Matrix ``(size, map_size)`` of linear interpolation between map voxels; constant beyond the outermost ones."""
    position = ((torch.arange(size) - centre) / stride).clamp(0, map_size - 1)
    return (1 - (position[:, None] - torch.arange(map_size)).abs()).clamp(min=0)
