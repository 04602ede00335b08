"""Dice plus cross-entropy, at full resolution and at the coarser outputs of deep supervision.

Labels are the outputs of one softmax; regions, which may overlap, have a sigmoid each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Plan

IGNORE = -1
_SMOOTH = 1e-5
"""Added to both parts of Dice, as MONAI does: what is neither predicted nor in the reference costs nothing."""

Regions = Sequence[Sequence[int]]
"""Class indices of each region; empty for labels."""


def target_masks(target: Tensor, outputs: int, regions: Regions = ()) -> Tensor:
    """Reference mask of each output, ``(batch, output, slice, u, v)`` float32 of 0 and 1; 0 where ignored.

    Args:
        target: ``(batch, slice, u, v)`` class indices, or ``IGNORE``.
        outputs: Number of outputs: classes with the background, or regions.
        regions: Class indices of each output, for regions.
    """
    if regions:
        members = [torch.tensor(region, device=target.device) for region in regions]
        return torch.stack([torch.isin(target, member) for member in members], dim=1).float()
    masks = target.new_zeros((len(target), outputs, *target.shape[1:]), dtype=torch.float32)
    masks.scatter_(1, target.clamp(min=0).unsqueeze(1), 1.0)
    return masks * (target != IGNORE).unsqueeze(1)


def segmentation_loss(logits: Tensor, target: Tensor, regions: Regions = ()) -> Tensor:
    """Soft Dice loss plus cross-entropy, as in nnU-Net (Isensee et al., Nature Methods 2021).

    For labels Dice leaves out the background; for regions cross-entropy is binary. Dice is computed over the batch as
    a whole, since most slices lack most labels. It equals MONAI's ``DiceLoss(batch=True)``, which takes seconds to
    import (``bench/parts.py``).

    Args:
        logits: ``(batch, output, slice, u, v)``; without regions output 0 is the background.
        target: ``(batch, slice, u, v)`` class indices; ``IGNORE`` outside the image and where nothing is annotated,
            which no term counts.
        regions: Class indices of each output, for regions.

    Returns:
        Scalar in float32; zero where every voxel is ignored.
    """
    logits = logits.float()
    annotated = (target != IGNORE).unsqueeze(1)
    count = annotated.sum().clamp(min=1)
    masks = target_masks(target, logits.shape[1], regions)
    if regions:
        entropies = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        cross_entropy = (entropies * annotated).sum() / (count * len(regions))
        probabilities = logits.sigmoid()
    else:
        logs = functional.log_softmax(logits, dim=1)
        cross_entropy = -(logs * masks).sum() / count
        probabilities = logs.exp()
    scored = slice(None) if regions else slice(1, None)
    return _dice_loss((probabilities * annotated)[:, scored], masks[:, scored]) + cross_entropy


def _dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """One minus the mean soft Dice of the outputs (axis 1), each over all other axes at once."""
    over = (0, 2, 3, 4)
    shared = (probabilities * masks).sum(over)
    sizes = probabilities.sum(over) + masks.sum(over)
    return 1 - ((2 * shared + _SMOOTH) / (sizes + _SMOOTH)).mean()


def deep_loss(outputs: Sequence[Tensor], target: Tensor, regions: Regions = ()) -> Tensor:
    """Mean loss of the outputs of deep supervision, weighted by 1, 1/2, 1/4 and so on.

    The loss of a coarser output is zero if no annotated voxel is among its nearest voxels.

    Args:
        outputs: Logits ``(batch, output, slice, u, v)``, full resolution first, then coarser ones.
        target: ``(batch, slice, u, v)`` at full resolution; coarser targets are its nearest voxels.
        regions: Class indices of each output, for regions.
    """
    weights = [0.5**index for index in range(len(outputs))]
    losses = [
        weight * segmentation_loss(logits, _resize(target, logits.shape[2:]), regions)
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


def plan_loss(outputs: Sequence[Tensor], target: Tensor, plan: Plan) -> Tensor:
    """The loss that a plan is trained with; a term that plans turn on has its weight in ``plan.recipe``.

    Outputs and target are those of :func:`deep_loss`.
    """
    return deep_loss(outputs, target, plan.data.region_classes)


@torch.no_grad()
def overlap_counts(logits: Tensor, target: Tensor, regions: Regions = ()) -> Tensor:
    """Voxels of each output in the prediction, in the reference and in both, ``(3, output)``, without ignored ones.

    Arguments are those of :func:`segmentation_loss`.
    """
    outputs = logits.shape[1]
    predicted = logits > 0 if regions else target_masks(logits.argmax(dim=1), outputs).bool()
    predicted = predicted & (target != IGNORE).unsqueeze(1)
    reference = target_masks(target, outputs, regions).bool()
    return torch.stack([mask.sum(dim=(0, 2, 3, 4)) for mask in (predicted, reference, predicted & reference)])


def _resize(target: Tensor, shape: torch.Size) -> Tensor:
    if target.shape[1:] == shape:
        return target
    resized = functional.interpolate(target.unsqueeze(1).float(), size=list(shape), mode="nearest-exact")
    return resized.squeeze(1).long()
