"""Depthwise convolutions with fast gradients: torch's values and gradients, for every stride and kernel in use."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from seg_transfer.network.depthwise import DepthwiseConv2d, DepthwiseConv3d, depthwise_gain, speed_up_depthwise
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import SliceConv3d

pytestmark = pytest.mark.usefixtures("one_thread")

FLAT = [(size, (stride, stride)) for size in ((3, 3), (5, 5), (7, 7)) for stride in (1, 2)]
DEEP = [
    (size, stride)
    for size in ((1, 3, 3), (3, 3, 3), (3, 5, 5), (3, 7, 7))
    for stride in ((1, 1, 1), (1, 2, 2), (2, 2, 2))
]


def convolution(size: tuple[int, ...], stride: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    if len(size) == 2:
        return nn.Conv2d(6, 6, size, stride, padding=(size[0] // 2, size[1] // 2), groups=6, bias=False)
    return SliceConv3d(6, 6, size, stride, padding=(0, size[1] // 2, size[2] // 2), groups=6, bias=False)


def gradients(module: nn.Module, x: torch.Tensor, *, reduced: bool = False) -> list[torch.Tensor]:
    """Output, and gradients of input and kernel."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        y = module(x)
    (y.float() * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
    return [each.detach().float() for each in (y, x.grad, module.weight.grad)]


@pytest.mark.parametrize(("size", "stride"), FLAT + DEEP, ids=str)
@pytest.mark.parametrize("lengths", [(5, 9, 12), (4, 8, 7)], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_are_torchs(size, stride, lengths, channels_last):
    module = convolution(size, stride)
    fast = copy.deepcopy(module)
    speed_up_depthwise(fast)
    assert type(fast) is (DepthwiseConv2d if len(size) == 2 else DepthwiseConv3d)
    x = torch.randn(2, 6, *lengths[-len(size) :])
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    for mine, theirs in zip(gradients(fast, x), gradients(module, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    # bfloat16 has 8 bits: sums of products of this size are off by a hundredth of the largest value at most
    for mine, theirs in zip(gradients(fast, x, reduced=True), gradients(module, x), strict=True):
        assert (mine - theirs).abs().max() <= 0.01 * theirs.abs().max()


def test_a_frozen_kernel_gets_no_gradient():
    module = convolution((3, 3, 3), (1, 1, 1))
    speed_up_depthwise(module)
    module.weight.requires_grad_(False)
    x = torch.randn(1, 6, 4, 5, 5, requires_grad=True)
    module(x).sum().backward()
    assert module.weight.grad is None and x.grad is not None


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "convnext_atto", "resnet18"])
def test_an_encoder_keeps_names_weights_and_results(name):
    encoder = Encoder(name, channels=1, stages=3, slice_strides=(1, 2, 1)).eval()
    state, x = dict(encoder.state_dict()), torch.randn(1, 1, 4, 33, 32)
    with torch.no_grad():
        before = encoder(x)
        speed_up_depthwise(encoder)
        after = encoder(x)
    with torch.enable_grad():  # another code path
        learning = encoder(x)
    assert list(encoder.state_dict()) == list(state)
    for mine, theirs in zip(after, before, strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(learning, before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    fast = [module for module in encoder.modules() if isinstance(module, DepthwiseConv2d | DepthwiseConv3d)]
    assert bool(fast) == (name != "resnet18")


def test_a_bias_learns_too():
    torch.manual_seed(0)
    module = SliceConv3d(6, 6, (3, 7, 7), (1, 1, 1), padding=(0, 3, 3), groups=6)
    fast = copy.deepcopy(module)
    speed_up_depthwise(fast)
    x = torch.randn(2, 6, 4, 8, 8)
    for each in (module, fast):
        (each(x) ** 2).sum().backward()
    torch.testing.assert_close(fast.bias.grad, module.bias.grad)
    torch.testing.assert_close(fast(x), module(x))


def test_the_gain_is_measured():
    threads = torch.get_num_threads()
    assert depthwise_gain(2, "float32") == 1.0
    assert depthwise_gain(3, "float32") > 0
    assert torch.get_num_threads() == threads
