"""Strategies: what learns when, at which rate, what autograd keeps, and what BatchNorm does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from made_plans import learns
from made_weights import resnet18_weights
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.network.build import build_network
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.strategy import Strategy
from seg_transfer.transfer.unfreezing import StrategySchedule, recalibrate_batchnorm

STAGES = 3


def make_network(configuration: str = "2d") -> UNet:
    model = ModelPlan.model_validate(
        {
            "configuration": configuration,
            "patch": (8, 16, 16) if configuration == "3d" else (1, 16, 16),
            "encoder": "resnet18",
            "weights": resnet18_weights(),
            "stages": STAGES,
            "slice_strides": (1, 2, 2) if configuration == "3d" else (),
            "input_mapping": "as_is",
            "decoder_channels": (8, 8, 8),
        }
    )
    return build_network(model, channels=1, classes=3, seed=0)[0]


EVERYTHING = learns(0.0, 0.0, 0.0, rate=0.1)
FROZEN = learns(None, None, None, batchnorm="recalibrated")
TOP = learns(None, None, 0.0)
UPPER = learns(None, 0.0, 0.0)


def make_schedule(network: UNet, strategy: Strategy, *, warmup: float = 0.1) -> StrategySchedule:
    return StrategySchedule(network, strategy, warmup=warmup)


def learning_stages(network: UNet) -> list[bool]:
    found = []
    for stage in network.encoder.stages:
        asks = {parameter.requires_grad for parameter in stage.parameters() if parameter.ndim > 1}
        assert len(asks) == 1
        found.append(asks.pop())
    return found


def norms(module: nn.Module) -> list[_BatchNorm]:
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (EVERYTHING, [True, True, True]),
        (learns(None, None, None, batchnorm="source"), [False, False, False]),
        (TOP, [False, False, True]),
        (learns(0.0, None, 0.0), [True, False, True]),
    ],
    ids=["everything", "nothing", "the top", "all but the middle"],
)
def test_stages_that_learn(strategy: Strategy, expected: list[bool]) -> None:
    network = make_network()
    schedule = make_schedule(network, strategy)
    for progress in (0.0, 0.5, 1.0):
        network.train()
        schedule.apply(progress)
        assert learning_stages(network) == expected
        assert all(parameter.requires_grad for parameter in network.blocks.parameters())
        assert [state != "frozen" for state in schedule.describe(progress).values()] == expected


def test_gradual_unfreezes_from_the_top_and_each_stage_warms_up() -> None:
    network = make_network()
    schedule = make_schedule(network, learns(None, 0.5, 0.2, rate=(0.0, 0.25, 0.5), batchnorm="source"))
    seen = {}
    for progress in (0.0, 0.2, 0.49, 0.5, 1.0):
        network.train()
        schedule.apply(progress)
        seen[progress] = learning_stages(network)
    assert seen[0.0] == [False, False, False]
    assert seen[0.2] == seen[0.49] == [False, False, True]
    assert seen[0.5] == seen[1.0] == [False, True, True]

    assert schedule.describe(0.25) == {0: "frozen", 1: "frozen", 2: "warming"}
    assert schedule.describe(0.4) == {0: "frozen", 1: "frozen", 2: "learning"}
    assert schedule.lr_scales(0.1) == {"decoder": 1.0, "encoder.0": 0.0, "encoder.1": 0.0, "encoder.2": 0.0}
    assert schedule.lr_scales(0.25)["encoder.2"] == pytest.approx(0.5 * 0.5)  # halfway up
    assert schedule.lr_scales(0.4)["encoder.2"] == pytest.approx(0.5)
    assert schedule.lr_scales(0.9)["encoder.1"] == pytest.approx(0.25)


def test_each_stage_has_its_own_rate() -> None:
    schedule = make_schedule(make_network(), learns(0.0, 0.0, 0.0, rate=(0.025, 0.05, 0.1)))
    assert schedule.lr_scales(0.0) == pytest.approx(
        {"decoder": 1.0, "encoder.0": 0.025, "encoder.1": 0.05, "encoder.2": 0.1}
    )
    groups = {group["name"]: group for group in schedule.parameter_groups(1e-2, 0.3)}
    assert groups["encoder.1"]["lr"] == pytest.approx(5e-4)
    assert groups["decoder"]["lr_scale"] == 1.0


@pytest.mark.parametrize(
    ("strategy", "absent"),
    [
        (EVERYTHING, ()),
        (UPPER, ("encoder.stages.0.",)),
        (FROZEN, ("encoder.",)),
        (learns(None, None, 0.5), ("encoder.stages.0.", "encoder.stages.1.")),
    ],
    ids=["everything", "upper", "frozen", "the top, later"],
)
def test_the_optimizer_has_every_parameter_that_ever_learns_once(strategy: Strategy, absent: Any) -> None:
    network = make_network()
    groups = make_schedule(network, strategy).parameter_groups(1e-3, 0.3)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given))
    expected = {id(p) for name, p in network.named_parameters() if not (absent and name.startswith(absent))}
    assert set(given) == expected
    for group in groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])


@pytest.mark.parametrize("batchnorm", ["source", "recalibrated"])
def test_frozen_batchnorm_is_in_eval_mode_without_gradient_while_weights_learn(batchnorm: str) -> None:
    network = make_network()
    schedule = make_schedule(network, learns(0.0, 0.0, 0.0, batchnorm=batchnorm))
    network.train()
    schedule.apply(0.5)
    assert learning_stages(network) == [True] * STAGES
    for norm in norms(network.encoder):
        assert not norm.training and not norm.weight.requires_grad and not norm.bias.requires_grad
    given = {id(p) for group in schedule.parameter_groups(1e-3, 0.1) for p in group["params"]}
    assert not given & {id(parameter) for norm in norms(network.encoder) for parameter in norm.parameters()}
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.randn(2, 1, 1, 16, 16)).sum().backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_trained_batchnorm_learns_only_in_stages_that_learn() -> None:
    network = make_network()
    schedule = make_schedule(network, UPPER)
    network.train()
    schedule.apply(0.0)
    modes = [{norm.training for norm in norms(stage)} for stage in network.encoder.stages]
    assert modes == [{False}, {True}, {True}]
    assert not network.encoder.stages[0].training


@pytest.mark.parametrize("configuration", ["2d", "3d"])
@pytest.mark.parametrize(
    ("strategy", "silent"),
    [
        (FROZEN, STAGES),
        (TOP, 2),
        (EVERYTHING, 0),
    ],
    ids=["frozen", "the top", "everything"],
)
def test_nothing_is_saved_for_backward_in_frozen_stages(configuration: str, strategy: Strategy, silent: int) -> None:
    network = make_network(configuration)
    network.train()
    make_schedule(network, strategy).apply(0.0)
    saved = dict.fromkeys(range(STAGES), 0)
    inside: list[int] = []
    for index, stage in enumerate(network.encoder.stages):
        stage.register_forward_pre_hook(lambda module, args, index=index: inside.append(index))
        stage.register_forward_hook(lambda module, args, output: inside.clear())

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if inside:
            saved[inside[-1]] += 1
        return tensor

    slices = 8 if configuration == "3d" else 1
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(torch.randn(2, 1, slices, 16, 16)).square().mean()
    assert [saved[stage] == 0 for stage in range(STAGES)] == [stage < silent for stage in range(STAGES)]
    loss.backward()
    for index, stage in enumerate(network.encoder.stages):
        assert all((p.grad is None) == (index < silent) for p in stage.parameters() if p.ndim > 1)


def test_recalibration_pools_batches_by_the_law_of_total_variance() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    batches = [torch.randn(2, 2, 16, 16) * scale + shift for scale, shift in ((1, 0), (2, 3), (0.5, -4))]
    weight = network[1].weight.clone()
    recalibrate_batchnorm(network, network, batches)
    everything = torch.cat(batches)
    assert torch.allclose(network[0].running_mean, everything.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(network[0].running_var, everything.var(dim=(0, 2, 3)), rtol=1e-2)
    assert torch.equal(network[1].weight, weight) and network[0].momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_recalibrated_features_of_an_inflated_encoder_are_normal() -> None:
    network = make_network("3d")
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, 1, 8, 32, 32, generator=draw) for _ in range(4)]
    first = norms(network.encoder)[0]
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    recalibrate_batchnorm(network, network.encoder, batches)
    seen.clear()
    with torch.no_grad():
        network(torch.randn(2, 1, 8, 32, 32, generator=draw))
    values = seen[0].transpose(0, 1).flatten(1)
    assert torch.allclose(values.mean(1), first.bias, atol=0.1)
    assert torch.allclose(values.std(1), first.weight.abs(), rtol=0.1)
