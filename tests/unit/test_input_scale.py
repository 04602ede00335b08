"""The scale of the input: frozen BatchNorm statistics need the one of the weights, re-estimated ones absorb any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seg_transfer.catalogue.encoders import entry
from seg_transfer.network.encoder_network import EncoderNetwork
from seg_transfer.planning.plan import ModelPlan, Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.weights import load_weights

NAME = "tf_efficientnet_lite0"
OWN, CUSTOMARY = (0.5, 0.5), (0.449, 0.226)
BORDER = 4
"""Positions near the border also see zeros, which no scale changes and which enter the statistics."""


def features(images: Tensor, scale: tuple[float, float], *, batch_statistics: bool) -> Tensor:
    encoder = Encoder(NAME, channels=1, stages=1)
    load_weights(encoder, Weights(source="bundled"), NAME)
    encoder.train(batch_statistics)
    mean, std = scale
    with torch.no_grad():
        (found,) = encoder((images - mean) / std)
    return found[..., BORDER:-BORDER, BORDER:-BORDER]


@pytest.fixture
def images() -> Tensor:
    """Smooth images in [0, 1], ``(batch, channel, slice, u, v)``."""
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(4, 1, 1, 16, 16), size=(1, 64, 64)).clamp(0, 1)


def test_statistics_of_the_source_need_its_scale(images: Tensor) -> None:
    own, other = (features(images, scale, batch_statistics=False) for scale in (OWN, CUSTOMARY))
    assert (own - other).abs().mean() > 0.2 * own.abs().mean()


def test_statistics_of_the_images_absorb_any_scale(images: Tensor) -> None:
    own, other = (features(images, scale, batch_statistics=True) for scale in (OWN, CUSTOMARY))
    assert (own - other).abs().mean() < 0.03 * own.abs().mean()  # what the zeros around the image leave


@pytest.mark.parametrize(("name", "mean"), [(NAME, 0.5), ("resnet18", 0.449)])
def test_the_network_scales_as_its_own_weights_were_trained(name: str, mean: float) -> None:
    model = ModelPlan(
        configuration="2d",
        patch=(1, 32, 32),
        encoder=name,
        weights=Weights(source="none"),
        stages=1,
        slice_strides=(),
        input_mapping="encoder_mean_std",
        decoder_channels=(8,),
    )
    network = EncoderNetwork(model, channels=3)
    assert network.mean.flatten().tolist() == pytest.approx(entry(name).mean)
    assert network.std.flatten().tolist() == pytest.approx(entry(name).std)
    assert EncoderNetwork(model, channels=1).mean.item() == pytest.approx(mean, abs=1e-3)
