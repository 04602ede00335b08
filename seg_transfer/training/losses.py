"""Dice plus cross-entropy, at full resolution and at the coarser outputs of deep supervision.

Labels are the outputs of one softmax; regions, which may overlap, have a sigmoid each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Plan

IGNORE = -1
_SMOOTH = 1e-5
"""Added to both parts of Dice, as MONAI does: what is neither predicted nor in the reference costs nothing."""

Regions = Sequence[Sequence[int]]
"""Class indices of each region; empty for labels."""
Total = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Sums over the samples of this process -> sums over those of all processes that share a batch."""


def of_one_process(sums: Sequence[Tensor]) -> Sequence[Tensor]:
    """The sums of a process that has the whole batch."""
    return sums


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


def segmentation_loss(logits: Tensor, target: Tensor, regions: Regions = (), total: Total = of_one_process) -> Tensor:
    """Soft Dice loss plus cross-entropy, as in nnU-Net (Isensee et al., Nature Methods 2021).

    For labels Dice leaves out the background; for regions cross-entropy is binary. Dice is computed over the batch as
    a whole, since most slices lack most labels. It equals MONAI's ``DiceLoss(batch=True)``, which takes seconds to
    import (``bench/parts.py``).

    Args:
        logits: ``(batch, output, slice, u, v)``; without regions output 0 is the background.
        target: ``(batch, slice, u, v)`` class indices; ``IGNORE`` outside the image and where nothing is annotated,
            which no term counts.
        regions: Class indices of each output, for regions.
        total: Sums over all processes that share the batch; the loss is then that of the whole batch in each of them.

    Returns:
        Scalar in float32; zero where every voxel is ignored.
    """
    logits = logits.float()
    annotated = (target != IGNORE).unsqueeze(1)
    masks = target_masks(target, logits.shape[1], regions)
    if regions:
        entropies = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        entropy, probabilities = (entropies * annotated).sum(), logits.sigmoid()
    else:
        logs = functional.log_softmax(logits, dim=1)
        entropy, probabilities = -(logs * masks).sum(), logs.exp()
    scored = slice(None) if regions else slice(1, None)
    overlaps = _overlaps((probabilities * annotated)[:, scored], masks[:, scored])
    entropy, count, shared, sizes = total((entropy, annotated.sum(), *overlaps))
    dice = ((2 * shared + _SMOOTH) / (sizes + _SMOOTH)).mean()  # soft Dice, the mean over the outputs
    return 1 - dice + entropy / (count.clamp(min=1) * max(1, len(regions)))


def _overlaps(probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """What each output (axis 1) shares with its mask, and the sum of both sizes, over all other axes at once."""
    over = (0, 2, 3, 4)
    return (probabilities * masks).sum(over), probabilities.sum(over) + masks.sum(over)


def deep_loss(
    outputs: Sequence[Tensor], target: Tensor, regions: Regions = (), total: Total = of_one_process
) -> Tensor:
    """Mean loss of the outputs of deep supervision, weighted by 1, 1/2, 1/4 and so on.

    The loss of a coarser output is zero if no annotated voxel is among its nearest voxels.

    Args:
        outputs: Logits ``(batch, output, slice, u, v)``, full resolution first, then coarser ones.
        target: ``(batch, slice, u, v)`` at full resolution; coarser targets are its nearest voxels.
        regions: Class indices of each output, for regions.
        total: As for :func:`segmentation_loss`.
    """
    weights = [0.5**index for index in range(len(outputs))]
    losses = [
        weight * segmentation_loss(logits, _resize(target, logits.shape[2:]), regions, total)
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


def plan_loss(outputs: Sequence[Tensor], target: Tensor, plan: Plan, total: Total = of_one_process) -> Tensor:
    """The loss that a plan is trained with; a term that plans turn on has its weight in ``plan.recipe``.

    Outputs, target and total are those of :func:`deep_loss`.
    """
    return deep_loss(outputs, target, plan.data.region_classes, total)


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
