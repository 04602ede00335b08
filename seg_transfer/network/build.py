"""The only factory of networks."""

from __future__ import annotations

import torch

from seg_transfer.network.encoder_network import Reader
from seg_transfer.network.pixel_head import PixelHead
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import ModelPlan, Weights
from seg_transfer.transfer.carry import carry_over
from seg_transfer.transfer.encoder import initialise
from seg_transfer.transfer.weights import LoadReport, load_weights


def blank_network(model: ModelPlan, *, channels: int, classes: int) -> UNet | PixelHead:
    """The network of a plan, with whatever weights torch gives its parts.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Outputs: classes, background included, or regions.
    """
    kind = UNet if model.head == "unet" else PixelHead
    return kind(model, channels=channels, classes=classes)


def build_network(
    model: ModelPlan, *, channels: int, classes: int, seed: int, load: bool = True
) -> tuple[UNet | PixelHead, LoadReport]:
    """Build the network of a plan: the same function for the same seed, without touching torch's global generator.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Outputs: classes, background included, or regions.
        seed: Seed of all random weights.
        load: Load the pretrained weights, or those of an earlier model. False when a checkpoint follows: the report
            then is that of random weights.

    Raises:
        UserError: If the encoder's weights cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = blank_network(model, channels=channels, classes=classes)
        if isinstance(network, UNet):
            for part in (network.raw, network.blocks, network.heads):
                part.apply(initialise)
    return network, _load(network, model if load else _with_random_weights(model))


def build_encoder(model: ModelPlan, *, channels: int, seed: int) -> Reader:
    """Build the encoder of a plan with its weights and input scaling, without decoder or head.

    Args:
        model: The plan's model; its decoder is not used.
        channels: Image channels.
        seed: Seed of all random weights: they are those of :func:`build_network`.

    Raises:
        UserError: If the encoder's weights cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Reader(model, channels=channels)
    _load(network, model)
    return network


def _with_random_weights(model: ModelPlan) -> ModelPlan:
    return model.model_copy(update={"weights": Weights(source="none")})


def _load(network: Reader, model: ModelPlan) -> LoadReport:
    """Load what ``model.weights`` names."""
    if model.weights.source == "model":
        return carry_over(network, model)
    return load_weights(network.encoder, model.weights, model.encoder)
