"""Dice plus cross-entropy, at full resolution and at the coarser outputs of deep supervision.

Labels that exclude each other are outputs of one softmax, regions are outputs of a sigmoid each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

IGNORE = -1

Regions = Sequence[Sequence[int]]
"""Class indices of each region; empty where labels exclude each other."""


def wanted_outputs(target: Tensor, outputs: int, regions: Regions = ()) -> Tensor:
    """What the network's outputs should be, ``(batch, output, slice, u, v)`` of 0 and 1; 0 where ignored.

    Args:
        target: ``(batch, slice, u, v)`` class indices, or ``IGNORE``.
        outputs: Number of outputs: of classes with the background, or of regions.
        regions: As for :func:`segmentation_loss`.
    """
    if regions:
        members = [torch.tensor(region, device=target.device) for region in regions]
        return torch.stack([torch.isin(target, member) for member in members], dim=1).float()
    wanted = target.new_zeros((len(target), outputs, *target.shape[1:]), dtype=torch.float32)
    wanted.scatter_(1, target.clamp(min=0).unsqueeze(1), 1.0)
    return wanted * (target != IGNORE).unsqueeze(1)


def segmentation_loss(logits: Tensor, target: Tensor, regions: Regions = ()) -> Tensor:
    """Soft Dice loss plus cross-entropy: of labels (background left out of Dice), or binary of every region.

    Dice is taken over the batch as a whole: in most slices most labels are absent, and a Dice of nothing against
    nothing teaches nothing. The sum is nnU-Net's (Isensee et al., Nature Methods 2021), for regions too.

    MONAI's Dice stays: forward and backward on one core take 6 ms for 4 x 3 classes x 40 x 56 x 40, like a Dice of
    gathered probabilities, and 147 ms for 2 x 9 classes x 16 x 192 x 192, where that takes 103 ms (``bench/parts.py``).

    Args:
        logits: ``(batch, output, slice, u, v)``; without regions output 0 is the background.
        target: ``(batch, slice, u, v)`` class indices; ``IGNORE``, which no term sees, where there is no image or
            nothing is annotated.
        regions: Class indices of each output, where outputs are regions.

    Returns:
        Scalar in float32; zero where every voxel is ignored.
    """
    logits = logits.float()
    known = (target != IGNORE).unsqueeze(1)
    count = known.sum().clamp(min=1)
    wanted = wanted_outputs(target, logits.shape[1], regions)
    if regions:
        entropies = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        cross_entropy = (entropies * known).sum() / (count * len(regions))
        probabilities = logits.sigmoid()
    else:
        logs = functional.log_softmax(logits, dim=1)
        cross_entropy = -(logs * wanted).sum() / count
        probabilities = logs.exp()
    dice = DiceLoss(include_background=bool(regions), batch=True)(probabilities * known, wanted)
    return dice + cross_entropy


def deep_loss(outputs: Sequence[Tensor], target: Tensor, regions: Regions = ()) -> Tensor:
    """Loss over the outputs of deep supervision, weighted 1, 1/2, 1/4, … and divided by the sum of the weights.

    Where annotation is sparse, a coarser target may show little or nothing of it; its loss then is zero.

    Args:
        outputs: Logits ``(batch, output, slice, u, v)``, full resolution first, then coarser ones.
        target: ``(batch, slice, u, v)`` at full resolution; the coarser targets are its nearest voxels.
        regions: As for :func:`segmentation_loss`.
    """
    weights = [0.5**index for index in range(len(outputs))]
    losses = [
        weight * segmentation_loss(logits, _resize(target, logits.shape[2:]), regions)
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


@torch.no_grad()
def overlap(logits: Tensor, target: Tensor, regions: Regions = ()) -> Tensor:
    """Voxels that each output has in the prediction, in the target, and in both, ``(3, output)``; ignored ones apart.

    Args:
        logits: As for :func:`segmentation_loss`.
        target: As for :func:`segmentation_loss`.
        regions: As for :func:`segmentation_loss`.
    """
    outputs = logits.shape[1]
    known = (target != IGNORE).unsqueeze(1)
    predicted = logits > 0 if regions else wanted_outputs(logits.argmax(dim=1), outputs).bool()
    predicted, wanted = predicted & known, wanted_outputs(target, outputs, regions).bool()
    return torch.stack([mask.sum(dim=(0, 2, 3, 4)) for mask in (predicted, wanted, predicted & wanted)])


def _resize(target: Tensor, shape: torch.Size) -> Tensor:
    if target.shape[1:] == shape:
        return target
    resized = functional.interpolate(target.unsqueeze(1).float(), size=list(shape), mode="nearest-exact")
    return resized.squeeze(1).long()
