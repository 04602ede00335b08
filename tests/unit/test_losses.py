"""The loss against figures worked out by hand, and what ignored voxels must not change."""

from __future__ import annotations

import pytest
import torch
from made_plans import data_plan, model_plan, plan

from seg_transfer.data.description import Region
from seg_transfer.training.losses import (
    IGNORE,
    deep_loss,
    overlap_counts,
    plan_loss,
    segmentation_loss,
    target_masks,
)

NESTED = ((1, 2), (2,))


def logits_of(target: torch.Tensor, classes: int, sure: float) -> torch.Tensor:
    return sure * torch.nn.functional.one_hot(target.clamp(min=0), classes).permute(0, 4, 1, 2, 3).float()


def test_a_perfect_prediction_costs_nothing_and_an_undecided_one_what_it_must() -> None:
    target = torch.tensor([0, 0, 1, 1, 2, 2]).reshape(1, 1, 2, 3)
    assert segmentation_loss(logits_of(target, 3, 50.0), target).item() == pytest.approx(0, abs=1e-5)
    undecided = segmentation_loss(torch.zeros(1, 3, 1, 2, 3), target).item()
    # each label: 2 * (2/3) / (2 + 2) = 1/3; background is left out; cross-entropy: log 3
    assert undecided == pytest.approx(1 - 1 / 3 + torch.tensor(3.0).log().item(), abs=1e-4)


def test_dice_is_that_of_the_batch() -> None:
    target = torch.zeros(2, 1, 2, 2, dtype=torch.long)
    target[0] = 1  # the label fills one sample and is absent from the other
    logits = logits_of(target, 2, 50.0)
    assert segmentation_loss(logits, target).item() == pytest.approx(0, abs=1e-5)


def test_nested_regions_are_masks_of_their_own() -> None:
    target = torch.tensor([0, 1, 2, IGNORE]).reshape(1, 1, 1, 4)
    assert target_masks(target, 2, NESTED).reshape(2, 4).tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    assert target_masks(target, 3).reshape(3, 4).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_regions_cost_what_dice_and_binary_cross_entropy_say() -> None:
    target = torch.tensor([0, 0, 1, 1, 2, 2]).reshape(1, 1, 2, 3)
    sure = 100 * target_masks(target, 2, NESTED) - 50
    assert segmentation_loss(sure, target, NESTED).item() == pytest.approx(0, abs=1e-5)
    undecided = segmentation_loss(torch.zeros(1, 2, 1, 2, 3), target, NESTED).item()
    # Dice of the outer region: 2 * 2 / (3 + 4) = 4/7, of the inner one 2 * 1 / (3 + 2) = 2/5; cross-entropy: log 2
    expected = 1 - (4 / 7 + 2 / 5) / 2 + torch.tensor(2.0).log().item()
    assert undecided == pytest.approx(expected, abs=1e-4)


def test_one_region_alone_is_learned() -> None:
    """Its background has no output to compete with."""
    target = torch.tensor([0, 1]).reshape(1, 1, 1, 2)
    logits = torch.zeros(1, 1, 1, 1, 2, requires_grad=True)
    segmentation_loss(logits, target, ((1,),)).backward()
    assert logits.grad is not None and logits.grad.flatten()[0] > 0 > logits.grad.flatten()[1]


@pytest.mark.parametrize("regions", [(), ((1, 2), (2,), (1,))])
@pytest.mark.parametrize("absent", [False, True])
def test_dice_is_monais(regions: tuple, absent: bool) -> None:
    from monai.losses import DiceLoss

    torch.manual_seed(0)
    target = torch.randint(0, 2 if absent else 3, (2, 4, 5, 6))
    logits = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    masks = target_masks(target, 3, regions)
    if regions:
        probabilities, entropy = logits.sigmoid(), torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    else:
        probabilities, entropy = logits.softmax(dim=1), torch.nn.functional.cross_entropy(logits, target)
    theirs = DiceLoss(include_background=bool(regions), batch=True)(probabilities, masks) + entropy
    (expected,) = torch.autograd.grad(theirs, logits)
    ours = segmentation_loss(logits, target, regions)
    (found,) = torch.autograd.grad(ours, logits)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("regions", [(), ((1, 2), (2,), (1,))])
def test_ignored_voxels_change_neither_loss_nor_gradient(regions: tuple) -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 5, 6))
    logits = torch.randn(2, 3, 4, 5, 6)
    padded_target = torch.nn.functional.pad(target, (2, 3, 1, 1), value=IGNORE)
    padded = torch.nn.functional.pad(logits, (2, 3, 1, 1), value=7.0).requires_grad_()
    loss = segmentation_loss(padded, padded_target, regions)
    assert loss.item() == pytest.approx(segmentation_loss(logits, target, regions).item(), abs=1e-5)
    loss.backward()
    outside = (padded_target == IGNORE).unsqueeze(1).expand_as(padded)
    assert (padded.grad[outside] == 0).all() and (padded.grad[~outside] != 0).any()


@pytest.mark.parametrize("regions", [(), ((1, 2), (2,), (1,))])
def test_where_all_is_ignored_loss_and_gradient_are_zero(regions: tuple) -> None:
    outputs = [torch.randn(1, 3, 2, 4, 4, requires_grad=True), torch.randn(1, 3, 1, 2, 2, requires_grad=True)]
    loss = deep_loss(outputs, torch.full((1, 2, 4, 4), IGNORE), regions)
    loss.backward()
    assert loss.item() == 0
    assert all((logits.grad == 0).all() for logits in outputs)


def test_overlap_counts_known_voxels_of_each_output() -> None:
    target = torch.tensor([0, 1, 2, 2, IGNORE]).reshape(1, 1, 1, 5)
    classes = torch.tensor([1, 1, 2, 1, 2]).reshape(1, 1, 1, 5)
    # background, 1 and 2: predicted, reference, both
    assert overlap_counts(logits_of(classes, 3, 5.0), target).tolist() == [[0, 3, 1], [1, 1, 2], [0, 1, 1]]
    regions = torch.tensor([[1.0, 1, 1, 1, 1], [-1, 1, 1, -1, 1]]).reshape(1, 2, 1, 1, 5)
    assert overlap_counts(regions, target, NESTED).tolist() == [[4, 2], [3, 2], [3, 1]]


def test_half_precision_is_computed_in_single() -> None:
    target = torch.randint(0, 2, (1, 4, 8, 8))
    logits = torch.randn(1, 2, 4, 8, 8).bfloat16()
    loss = segmentation_loss(logits, target)
    assert loss.dtype == torch.float32 and loss.item() == segmentation_loss(logits.float(), target).item()


@pytest.mark.parametrize("regions", [(), NESTED])
def test_deep_supervision_is_the_weighted_mean(regions: tuple) -> None:
    torch.manual_seed(0)
    target = torch.randint(0, 2, (1, 4, 8, 8))
    outputs = [torch.randn(1, 2, 4, 8, 8), torch.randn(1, 2, 2, 4, 4), torch.randn(1, 2, 1, 2, 2)]
    targets = [target, target[:, 1::2, 1::2, 1::2], target[:, 2::4, 2::4, 2::4]]
    targets = [torch.where(each == 1, each, IGNORE) if regions else each for each in targets]
    target = targets[0]
    losses = [segmentation_loss(output, each, regions).item() for output, each in zip(outputs, targets, strict=True)]
    expected = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    assert deep_loss(outputs, target, regions).item() == pytest.approx(expected, abs=1e-5)
    assert deep_loss(outputs[:1], target, regions).item() == pytest.approx(losses[0], abs=1e-6)


def test_sizes_rounded_up_are_fitted() -> None:
    target = torch.zeros(1, 1, 5, 7, dtype=torch.long)
    target[..., 4:] = IGNORE
    assert torch.isfinite(deep_loss([torch.randn(1, 2, 1, 5, 7), torch.randn(1, 2, 1, 3, 4)], target))


@pytest.mark.parametrize(
    "regions", [(), (Region(name="all", values=(1, 2), writes=1), Region(name="inner", values=(2,), writes=2))]
)
def test_a_plan_without_further_terms_is_trained_with_the_deep_loss(regions: tuple) -> None:
    made = plan(data_plan(regions=regions), model_plan("2d", (1, 16, 16)))
    outputs = [torch.randn(1, len(made.data.outputs), 2, 4, 4), torch.randn(1, len(made.data.outputs), 1, 2, 2)]
    target = torch.randint(0, 3, (1, 2, 4, 4))
    assert plan_loss(outputs, target, made) == deep_loss(outputs, target, made.data.region_classes)
