"""Distance between stored and measured BatchNorm statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchnorm_distance import (
    gaussian_divergence,
    measure_statistics,
    square_inputs,
    statistics_distance,
)
from made_plans import data_plan, model_plan, plan

from seg_transfer.data.image import image_from_array
from seg_transfer.network.build import build_network
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import Strategy, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.transform import CaseTransform
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm

FINETUNE = Strategy(kind="finetune", encoder_lr_ratio=1, batchnorm="source")


def network(encoder: str = "resnet18", configuration: str = "2d", patch: tuple[int, int, int] = (1, 32, 32)) -> UNet:
    made = model_plan(configuration, patch, encoder=encoder)
    return build_network(made, channels=1, classes=3, seed=0)[0]


def inputs(count: int = 6, slices: int = 1, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 1, slices, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_the_sum_of_both_directions() -> None:
    mean, variance, other_mean, other_variance = (torch.tensor(value) for value in (1.0, 4.0, 3.0, 9.0))
    first, second = torch.distributions.Normal(1.0, 2.0), torch.distributions.Normal(3.0, 3.0)
    both = torch.distributions.kl_divergence(first, second) + torch.distributions.kl_divergence(second, first)
    assert gaussian_divergence(mean, variance, other_mean, other_variance) == pytest.approx(both.item())
    assert gaussian_divergence(mean, variance, mean, variance) == 0


def test_a_first_norm_that_is_off_by_known_figures() -> None:
    made = network()
    first = made.encoder.get_submodule("stages.0.bn1")
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda module, read: seen.append(read[0]))
    images = inputs()
    statistics_distance(made, images)
    values = torch.cat(seen).double().transpose(0, 1).flatten(1)
    first.running_mean.copy_(values.mean(1) + 2 * values.std(1))
    first.running_var.copy_(values.var(1))
    # two standard deviations between two means, equal variances: J = 2 ** 2
    assert statistics_distance(made, images)[0] == pytest.approx(np.log(5), rel=1e-3)


def test_recalibrated_on_the_same_images_is_near_zero_and_a_shift_is_not() -> None:
    made = network()
    images = inputs()
    raw = statistics_distance(made, images)
    recalibrate_batchnorm(made, made.encoder, [images])
    assert all(distance < 0.01 for distance in statistics_distance(made, images))
    assert all(distance > 0.01 for distance in statistics_distance(made, images + 3))
    assert all(distance > 0.1 for distance in raw)
    assert not any(module.training for module in made.modules())


def test_hooks_are_gone_afterwards() -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    statistics_distance(made, inputs())
    assert not any(
        module._forward_pre_hooks for module in made.encoder.modules() if "BatchNorm" in type(module).__name__
    )
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_stages_without_batchnorm_have_no_distance() -> None:
    assert statistics_distance(network("convnext_tiny"), inputs(2)) == (None, None)


def test_volumes_are_measured_too() -> None:
    distances = statistics_distance(network(configuration="3d", patch=(4, 32, 32)), inputs(2, slices=4))
    assert len(distances) == 2 and all(distance > 0 for distance in distances)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two volumes whose value is their slice, one of them with a label in slices 2 and 3."""
    data = data_plan(cases=("one", "two"), channels=[{"name": "z", "normalization": {"kind": "none"}}], axes=(0, 1, 2))
    made = Store.create(tmp_path_factory.mktemp("store") / "x", data)
    for case in data.cases:
        image = image_from_array(np.tile(np.arange(6.0)[:, None, None], (1, 20, 30)), (3.0, 1.0, 1.0))
        label = np.zeros((6, 20, 30), np.uint8)
        if case == "one":
            label[2:4, 5:9, 5:9] = 1
        transform = CaseTransform.fit(image, data)
        made.add(case, transform.slabs(image), label, transform)
    return made


@pytest.mark.parametrize(
    ("configuration", "patch", "expected"),
    [
        ("2d", (1, 16, 16), {(2,), (3,)}),
        ("2.5d", (3, 16, 16), {(1, 2, 3), (2, 3, 4)}),
        ("3d", (6, 16, 16), {(0, 0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5)}),
    ],
)
def test_inputs_lie_around_labelled_slices(
    store: Store, configuration: str, patch: tuple[int, int, int], expected: set[tuple[int, ...]]
) -> None:
    made = list(square_inputs([store.case("one")], model_plan(configuration, patch), side=64, seed=0))
    assert {tuple(image.shape) for image in made} == {(1, patch[0], 64, 64)}
    assert {tuple(image[0, :, 30, 30].round().int().tolist()) for image in made} == expected


def test_a_case_without_labels_gives_any_slices(store: Store) -> None:
    made = list(square_inputs([store.case("two")], model_plan("2d", (1, 16, 16)), side=8, seed=0))
    assert sorted(image.mean().round().item() for image in made) == [0, 1, 2, 3, 4, 5]


def test_measured_of_a_plan(store: Store) -> None:
    made = plan(store.data, model_plan("2d", (1, 16, 16), weights=Weights(source="bundled")), strategy=FINETUNE)
    found = measure_statistics(made, store, ["one", "two"], side=64, seed=0)
    assert (found.side, found.slices) == (64, 8)
    assert len(found.distance) == 2 and all(distance > 0 for distance in found.distance)
    random = made.model_copy(update={"model": model_plan("2d", (1, 16, 16))})
    assert measure_statistics(random, store, ["one"], side=64, seed=0).distance == (None, None)
    again = measure_statistics(made, store, ["one", "two"], side=64, seed=0)
    assert again == found
