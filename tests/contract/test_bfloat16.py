"""Convolutions in bfloat16 against float32, on the shapes that plans use and on maps smaller than their kernels.

Without :func:`guard_small_maps` torch's gradients of kernels are wrong on small maps, and memory is overwritten, on
CPUs with instructions for bfloat16. Elsewhere only the last two tests can tell whether the guard is there.
"""

from __future__ import annotations

import copy

import pytest
import torch
from made_plans import data_plan, model_plan, plan
from test_depthwise import gradients
from torch import nn

from seg_transfer.catalogue.encoders import ENCODERS
from seg_transfer.network.depthwise import speed_up_depthwise
from seg_transfer.pretraining.learner import Learner
from seg_transfer.training.trainer import Trainer
from seg_transfer.transfer.inflate import SliceConv3d
from seg_transfer.transfer.small_maps import guard_small_maps

pytestmark = pytest.mark.usefixtures("one_thread")
NARROW = [(4, 6, 1), (4, 6, 2), (3, 1, 1), (1, 2, 2), (3, 4, 3)]
PLANNED = [(20, 28, 20), (5, 7, 5)]
RELATIVE_ERROR = 0.02
"""Of 8 bits of mantissa, over sums of many products; a wrong result is off by about 1."""


def guarded(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module)
    guard_small_maps(module)
    return module


def assert_as_in_float32(module: nn.Module, x: torch.Tensor) -> None:
    for found, expected in zip(gradients(guarded(module), x, reduced=True), gradients(module, x), strict=True):
        assert (found - expected).norm() <= RELATIVE_ERROR * expected.norm()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("sizes", NARROW + PLANNED, ids=str)
@pytest.mark.parametrize(("channels", "groups", "side"), [(16, 1, 3), (32, 1, 3), (32, 32, 3), (32, 32, 5)])
def test_values_and_gradients_are_those_of_float32(sizes, stride, channels, groups, side, channels_last):
    torch.manual_seed(0)
    padding = (0, side // 2, side // 2)
    module = SliceConv3d(channels, channels, (3, side, side), stride, padding=padding, groups=groups, bias=False)
    x = torch.randn(2, channels, *sizes)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        module = module.to(memory_format=torch.channels_last_3d)
    assert_as_in_float32(module, x)


@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1), (12, 1), (1, 5), (2, 2), (3, 4), (5, 5)], ids=str)
@pytest.mark.parametrize("groups", [1, 32])
def test_so_are_those_of_images(sizes, stride, side, groups):
    torch.manual_seed(0)
    module = nn.Conv2d(32, 32, side, stride, padding=side // 2, groups=groups, bias=False)
    x = torch.randn(2, 32, *sizes).contiguous(memory_format=torch.channels_last)
    assert_as_in_float32(module.to(memory_format=torch.channels_last), x)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("sizes", "side", "stride", "is_small"),
    [
        ((2, 9), 3, 1, True),
        ((9, 2), 3, 1, True),
        ((3, 3), 3, 1, False),
        ((2, 9), 1, 2, True),
        ((3, 9), 1, 2, False),
        ((1, 9), 1, 1, False),
    ],
)
def test_small_maps_are_computed_in_float32(sizes, side, stride, is_small, fast):
    torch.manual_seed(0)
    module = nn.Conv2d(32, 32, side, stride, padding=side // 2, groups=32)
    if fast:
        speed_up_depthwise(module)
    module, x = guarded(module), torch.randn(2, 32, *sizes)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, module(x).to(torch.bfloat16)) == is_small
    assert repr(guarded(module)) == repr(module)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_in_bfloat16_has_the_guard(precision):
    made = plan(data_plan(), model_plan("2d", (1, 16, 16)), precision=precision)
    trained = Trainer(made, seed=0, device="cpu", load=False).network
    learned = Learner(ENCODERS["resnet18"], 3, seed=0, device="cpu", bfloat16=precision == "bfloat16").network
    for network in (trained, learned):
        assert any(type(each) is nn.Conv2d for each in network.modules()) == (precision == "float32")
