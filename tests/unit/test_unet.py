"""The network of a plan: shapes, input scaling, seeds, deep supervision."""

from __future__ import annotations

import pytest
import torch
from made_weights import resnet18_weights
from torch import nn

from seg_transfer.network.blocks import InstanceNorm, depth_to_space, normalization, space_to_depth
from seg_transfer.network.build import build_network
from seg_transfer.planning.plan import ModelPlan, Weights

WIDTHS = (8, 12, 16, 16, 16)


def plan(configuration="2d", patch=(1, 33, 35), stages=3, slice_strides=(), **changes) -> ModelPlan:
    fields = {
        "configuration": configuration,
        "patch": patch,
        "encoder": "resnet18",
        "weights": resnet18_weights(),
        "stages": stages,
        "slice_strides": slice_strides,
        "input_mapping": "as_is",
        "decoder_channels": WIDTHS[:stages],
    }
    return ModelPlan(**(fields | changes))


CONFIGURATIONS = {
    "2d": (plan(), 1),
    "2.5d": (plan("2.5d", (3, 33, 35)), 1),
    "3d": (plan("3d", (7, 33, 35), slice_strides=(1, 2, 1)), 7),
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_logits_have_the_patchs_size_and_deeper_ones_half_of_it_each(configuration):
    model, slices = CONFIGURATIONS[configuration]
    network, _ = build_network(model, channels=2, classes=4, seed=0)
    x = torch.randn(2, 2, *model.patch)
    assert network(x).shape == (2, 4, slices, 33, 35)
    deep = network.forward_deep(x)
    halves = [(1, 33, 35), (1, 9, 9), (1, 5, 5)] if slices == 1 else [(7, 33, 35), (4, 9, 9), (4, 5, 5)]
    assert [tuple(logits.shape) for logits in deep] == [(2, 4, *size) for size in halves]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_forward_is_the_first_of_forward_deep(configuration):
    model, _ = CONFIGURATIONS[configuration]
    network, _ = build_network(model, channels=1, classes=2, seed=0)
    network.eval()
    x = torch.randn(1, 1, *model.patch)
    assert torch.equal(network(x), network.forward_deep(x)[0])


def test_another_size_than_the_patchs_works():
    network, _ = build_network(plan(), channels=1, classes=2, seed=0)
    assert network(torch.randn(1, 1, 1, 50, 21)).shape == (1, 2, 1, 50, 21)


def test_same_seed_same_network_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, _ = build_network(plan(), channels=1, classes=2, seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    two, _ = build_network(plan(), channels=1, classes=2, seed=7)
    other, _ = build_network(plan(), channels=1, classes=2, seed=8)
    first, second, third = one.state_dict(), two.state_dict(), other.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["heads.0.weight"], third["heads.0.weight"])


def test_without_pretrained_weights_only_the_encoder_differs():
    pretrained, _ = build_network(plan(), channels=1, classes=2, seed=0)
    scratch, report = build_network(plan(weights=Weights(source="none")), channels=1, classes=2, seed=0)
    unloaded, _ = build_network(plan(), channels=1, classes=2, seed=0, pretrained_stages=0)
    assert report.share == 0.0
    first, second, third = pretrained.state_dict(), scratch.state_dict(), unloaded.state_dict()
    assert all(torch.equal(second[name], third[name]) for name in second)
    differing = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert differing == {"encoder"}


def test_random_convolutions_keep_the_variance_and_no_residual_branch_starts_at_zero():
    network, _ = build_network(plan(weights=Weights(source="none")), channels=1, classes=2, seed=0)
    weight = network.encoder.stages[2].layer2[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert network.encoder.stages[2].layer2[1].bn2.weight.min() == 1.0


@pytest.mark.parametrize("channels", [1, 3])
def test_encoder_mean_std_scales_the_input_once(channels):
    scaled, _ = build_network(plan(input_mapping="encoder_mean_std"), channels=channels, classes=2, seed=0)
    plain, _ = build_network(plan(), channels=channels, classes=2, seed=0)
    scaled.eval()
    plain.eval()
    x = torch.rand(1, channels, 1, 33, 35)
    if channels == 3:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    else:
        mean, std = torch.tensor([0.449]), torch.tensor([0.226])
    by_hand = (x - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    torch.testing.assert_close(scaled(x), plain(by_hand), rtol=1e-4, atol=1e-4)
    assert list(scaled.state_dict()) == list(plain.state_dict())


def test_a_25d_stack_feeds_its_slices_as_channels():
    network, report = build_network(plan("2.5d", (5, 32, 32)), channels=1, classes=2, seed=0)
    weight = network.encoder.stages[0].conv1.weight
    assert weight.shape[1] == 5
    torch.testing.assert_close(weight[:, 0], weight[:, 3])
    assert report.adapted == {"stages.0.conv1.weight": 64 * 5 * 49}


@pytest.mark.parametrize("shape", [(3, 8, 6, 7), (2, 8, 3, 4, 5)])
def test_instance_norm_is_torchs(shape):
    norm = InstanceNorm(8)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    x = torch.randn(shape)
    expected = nn.functional.instance_norm(x, weight=norm.weight, bias=norm.bias)
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)
    norm.eval()
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_few_voxels_get_group_norm():
    assert isinstance(normalization(32, voxels=16), InstanceNorm)
    assert normalization(32, voxels=15).num_groups == 2
    assert normalization(24, voxels=15).num_groups == 3
    network, _ = build_network(plan(patch=(1, 12, 12)), channels=1, classes=2, seed=0)
    kinds = [type(block.fuse[1]).__name__ for block in network.blocks]
    assert kinds == ["InstanceNorm", "GroupNorm", "GroupNorm"]


@pytest.mark.parametrize(("block", "sizes"), [((2, 2), (5, 4)), ((1, 2, 2), (3, 5, 6)), ((2, 2, 2), (4, 3, 5))])
def test_space_to_depth_keeps_every_voxel_and_rounds_sizes_up(block, sizes):
    x = torch.randn(2, 3, *sizes)
    deep = space_to_depth(x, block)
    halved = [-(-size // step) for size, step in zip(sizes, block, strict=True)]
    assert deep.shape == (2, 3 * torch.tensor(block).prod(), *halved)
    assert torch.equal(depth_to_space(deep, block, sizes), x)


def test_blocks_of_the_first_channel_come_first_in_reading_order():
    x = torch.arange(8.0).view(1, 2, 2, 2)
    assert space_to_depth(x, (2, 2)).flatten().tolist() == list(range(8))


def test_every_raw_voxel_reaches_the_logits():
    network, _ = build_network(plan(patch=(1, 9, 11)), channels=1, classes=2, seed=0)
    x = torch.randn(1, 1, 1, 9, 11, requires_grad=True)
    network(x).square().sum().backward()
    assert (x.grad != 0).all()


def test_decoder_kernels_are_flat_until_the_first_stride_along_the_slice_axis():
    network, _ = build_network(plan("3d", (7, 33, 35), slice_strides=(1, 2, 1)), channels=1, classes=2, seed=0)
    assert [block.fuse[0].kernel_size for block in network.blocks] == [(1, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert network.raw[0].kernel_size == network.heads[0].kernel_size == (1, 3, 3)
