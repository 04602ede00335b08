"""Every encoder under one suite: pyramid sizes, first convolution, gradients, checkpoints, in all configurations."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from safetensors.torch import save_file

from seg_transfer.catalogue import ENCODERS, entry
from seg_transfer.network.build import build_network
from seg_transfer.planning.plan import ModelPlan, Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import load_weights

CONFIGURATIONS = {"2d": (1, ()), "2.5d": (3, ()), "3d": (5, (1, 2, 1, 2, 1))}
SIZE = (33, 47)

every_encoder = pytest.mark.parametrize("name", ENCODERS)
every_configuration = pytest.mark.parametrize("configuration", CONFIGURATIONS)


def plan(name: str, configuration: str) -> ModelPlan:
    slices, slice_strides = CONFIGURATIONS[configuration]
    return ModelPlan(
        configuration=configuration,
        patch=(slices, *SIZE),
        encoder=name,
        weights=Weights(source="none"),
        stages=5,
        slice_strides=slice_strides,
        input_mapping="as_is",
        decoder_channels=(4, 4, 8, 8, 8),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Path of a full state dict of an encoder as timm names it, with random values, and its first convolution."""
    made = {}

    def make(name: str):
        if name not in made:
            torch.manual_seed(1)
            head = (
                {"mlp_ratio": 0.001} if name.startswith("vgg") else {}
            )  # else 120 million weights that are never read
            network = timm.create_model(name, pretrained=False, num_classes=2, **head)
            path = tmp_path_factory.mktemp(name) / "weights.safetensors"
            state = network.state_dict()
            save_file(state, path)
            made[name] = path, next(value for value in state.values() if value.ndim == 4)
        return made[name]

    return make


@every_encoder
@every_configuration
@pytest.mark.parametrize("size", [(33, 47), (64, 31)])
def test_every_level_has_the_catalogues_channels_and_the_size_rounded_up(name, configuration, size):
    slices, slice_strides = CONFIGURATIONS[configuration]
    is_3d = configuration == "3d"
    encoder = Encoder(name, channels=1 if is_3d else slices, slice_strides=slice_strides if is_3d else None).eval()
    with torch.no_grad():
        levels = encoder(torch.randn(1, 1, slices, *size))
    assert encoder.channels == entry(name).channels == tuple(level.shape[1] for level in levels)
    assert [stride[1:] for stride in encoder.strides] == [(2**k, 2**k) for k in range(1, 6)]
    assert [stride[0] for stride in encoder.strides] == ([1, 2, 2, 4, 4] if is_3d else [1] * 5)
    for level, stride in zip(levels, encoder.strides, strict=True):
        expected = [math.ceil(length / step) for length, step in zip((slices, *size), stride, strict=True)]
        assert list(level.shape[2:]) == (expected if is_3d else expected[1:])


@every_encoder
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("is_3d", [False, True])
def test_the_first_convolution_reads_any_number_of_channels(name, channels, is_3d, source):
    path, rgb = source(name)
    encoder = Encoder(name, channels=channels, stages=1, slice_strides=(2,) if is_3d else None)
    report = load_weights(encoder, Weights(source="file", path=str(path)), name)
    assert report.share == 1.0
    weight = encoder.get_parameter(encoder.first_convolution())
    if is_3d:
        assert weight.shape[2] == 3
        torch.testing.assert_close(weight[:, :, 0], weight[:, :, 2])
        weight = weight.sum(2)
    assert weight.shape[1] == channels
    if channels == 1:
        torch.testing.assert_close(weight[:, 0], rgb[:, 0] + rgb[:, 1] + rgb[:, 2])
    else:
        for channel in range(channels):
            torch.testing.assert_close(weight[:, channel], rgb[:, channel % 3] * 3 / channels)


@every_encoder
def test_a_full_checkpoint_fills_every_level_and_leaves_only_the_head(name, source):
    path, _ = source(name)
    report = load_weights(Encoder(name, channels=3), Weights(source="file", path=str(path)), name)
    assert report.share == 1.0
    assert not report.random and not report.adapted
    assert all(key.startswith(("fc", "head", "pre_logits")) for key in report.unused)


@every_encoder
@pytest.mark.parametrize("slice_strides", [(1, 2, 2, 2, 1), (2, 1, 2, 1, 2)])
def test_a_volume_constant_along_the_slice_axis_keeps_the_2d_features(name, slice_strides, source):
    path, _ = source(name)
    weights = Weights(source="file", path=str(path))
    flat = Encoder(name, channels=1).eval()
    deep = Encoder(name, channels=1, slice_strides=slice_strides).eval()
    load_weights(flat, weights, name)
    load_weights(deep, weights, name)
    x = torch.randn(1, 1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    slices = 5
    with torch.no_grad():
        for stride, two, three in zip(slice_strides, flat(x), deep(x.repeat(1, 1, 5, 1, 1)), strict=True):
            slices = math.ceil(slices / stride)
            assert three.shape[2] == slices
            scale = two.abs().max()
            assert scale > 0
            torch.testing.assert_close(three / scale, two.unsqueeze(2).expand_as(three) / scale, rtol=0, atol=1e-4)


@every_encoder
@every_configuration
def test_gradients_reach_every_parameter(name, configuration):
    model = plan(name, configuration)
    network, _ = build_network(model, channels=1, classes=2, seed=0)
    network.train()
    x = torch.randn(2, 1, *model.patch, generator=torch.Generator().manual_seed(0))
    sum((logits**2).mean() for logits in network.forward_deep(x)).backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@every_encoder
@every_configuration
def test_a_state_dict_restores_the_network_exactly(name, configuration):
    model = plan(name, configuration)
    first, _ = build_network(model, channels=2, classes=3, seed=0)
    second, _ = build_network(model, channels=2, classes=3, seed=1, load=False)
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    x = torch.randn(1, 2, *model.patch)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


@every_encoder
def test_levels_name_every_parameter_once_and_unused_levels_are_not_built(name):
    encoder = Encoder(name, channels=3, stages=3)
    named = [key for level in encoder.levels() for key, _ in level]
    assert named == [key for key, _ in encoder.named_parameters()]
    assert len(encoder.level_modules()) == len(encoder.levels()) == 3
    assert [sum(parameter.numel() for _, parameter in level) for level in encoder.levels()] == list(
        entry(name).parameters_per_level[:3]
    )
