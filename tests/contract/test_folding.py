"""Frozen stages without BatchNorm: every encoder's maps stay the same, and nothing of the folding is saved."""

from __future__ import annotations

import pytest
import torch
from made_plans import learns, model_plan
from test_encoders import each, encoder, random_image, stages_enough
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.catalogue.encoders import ENCODERS, entry
from seg_transfer.network.build import build_network
from seg_transfer.transfer.folding import fold_batchnorm
from seg_transfer.transfer.unfreezing import StrategySchedule

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIGURATIONS = [each(name, "2d") for name, known in ENCODERS.items() if known.batchnorm]
CONFIGURATIONS += [(name, "3d") for name in ("resnet18", "tf_efficientnet_lite0", "regnety_016")]


def disturb(module: nn.Module) -> None:
    """Give every BatchNorm statistics and an affine map of its own."""
    random = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            for tensor in (norm.weight.data, norm.running_var):
                tensor.copy_(0.8 + 0.4 * torch.rand(tensor.shape, generator=random))
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=random))


@pytest.mark.parametrize(("name", "configuration"), CONFIGURATIONS)
def test_folded_stages_give_the_same_maps(name, configuration):
    made = encoder(name, configuration, stages=stages_enough(entry(name))).eval()
    disturb(made)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    x = random_image(2, 1, {"2d": 1, "3d": 5}[configuration], 33, 47)
    with torch.no_grad():
        expected = made(x)
        made.fold(range(len(made.stages)))
        found = made(x)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one / other.std(), other / other.std(), rtol=1e-3, atol=1e-3)
    folded = [stage for index, stage in made._folded.items() if stage is not made.stages[index]]
    assert folded, "no stage could be folded"
    assert made.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


@pytest.mark.parametrize("configuration", ["2d", "3d"])
@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_the_usual_encoders_lose_every_batchnorm(name, configuration):
    made = encoder(name, configuration)
    made.fold(range(len(made.stages)))
    assert len(made._folded) == len(made.stages)
    assert not any(isinstance(module, _BatchNorm) for stage in made._folded.values() for module in stage.modules())


class UsedTwice(nn.Module):
    """A convolution whose output is also read past its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return self.norm(y) + y


class ActivatedFirst(UsedTwice):
    """An activation in place between convolution and BatchNorm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu_(self.convolution(x)))


@pytest.mark.parametrize("kind", [UsedTwice, ActivatedFirst])
def test_what_cannot_be_folded_stays_as_it_is(kind):
    stage = kind()
    disturb(stage)
    assert fold_batchnorm(stage, random_image(1, 2, 8, 8)) is stage


def test_a_stage_is_folded_only_while_it_is_frozen():
    planned = model_plan("2d", (1, 32, 32), stages=2, decoder_channels=(4, 8))
    network, _ = build_network(planned, channels=1, classes=2, seed=0)
    schedule = StrategySchedule(network, learns(None, 0.5), warmup=0.0)
    network.train()
    x = random_image(2, 1, 1, 32, 32)
    schedule.apply(progress=0.2)
    assert set(network.encoder._folded) == {0, 1}
    schedule.apply(progress=0.6)
    assert set(network.encoder._folded) == {0}
    network(x).mean().backward()
    learning = [name for name, value in network.encoder.named_parameters() if value.grad is not None]
    assert learning and all(name.startswith("stages.1.") for name in learning)
