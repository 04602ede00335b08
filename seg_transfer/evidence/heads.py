"""Linear classifiers of features as segmentation heads: a 1x1 convolution per stage, its scores enlarged and added.

Standardizing, PCA and a linear classifier together are one affine map (``network/stage_logits.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.network.stage_logits import stage_logits


@dataclass(frozen=True)
class Head:
    """Scores of classes from the features of some stages of one source of features.

    Attributes:
        weights: Stage -> ``(class, features)`` float32; stages that are not read are absent.
        bias: ``(class,)`` float32.
    """

    weights: dict[int, NDArray[np.float32]]
    bias: NDArray[np.float32]


def blank_scores(heads: Sequence[Head], batch: int, sizes: Sequence[int], device: torch.device) -> Tensor:
    """The heads' biases ``(batch, head x class, slice, u, v)``, to which each stage's scores are added."""
    bias = torch.from_numpy(np.concatenate([head.bias for head in heads])).to(device)
    return bias[:, None, None, None].expand(batch, -1, *sizes).clone()


def add_scores(
    total: Tensor, maps: Tensor, heads: Sequence[Head], stage: int, *, stride: Sequence[int], centre: Sequence[float]
) -> None:
    """Add what one stage contributes to the scores of all heads that read it, in place.

    Args:
        total: ``(batch, head x class, slice, u, v)`` float32.
        maps: ``(batch, feature, slice, u, v)`` of the stage.
        heads: All with as many classes.
        stage: Which one.
        stride: Of the maps, ``(slice, u, v)``.
        centre: Where in the window the first map voxel is centred.
    """
    readers = [index for index, head in enumerate(heads) if stage in head.weights]
    if not readers:
        return
    weight = torch.from_numpy(np.concatenate([heads[index].weights[stage] for index in readers])).to(total)
    scores = stage_logits(maps, weight, total.shape[2:], stride=stride, centre=centre)
    classes = len(heads[0].bias)
    rows = [index * classes + offset for index in readers for offset in range(classes)]
    total[:, rows] += scores
