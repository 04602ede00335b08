"""The only factory of networks."""

from __future__ import annotations

import torch

from seg_transfer.network.pixel_head import PixelHead
from seg_transfer.network.unet import UNet
from seg_transfer.planning.plan import ModelPlan
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
    model: ModelPlan, *, channels: int, classes: int, seed: int, pretrained_stages: int | None = None
) -> tuple[UNet | PixelHead, LoadReport]:
    """Build the network of a plan: the same function for the same seed, without touching torch's global generator.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Outputs: classes, background included, or regions.
        seed: Seed of all random weights.
        pretrained_stages: How many stages take the plan's weights, from the finest; by default all. 0 loads nothing,
            as where a checkpoint follows: the report then is that of random weights.

    Raises:
        UserError: If the encoder's weights cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = blank_network(model, channels=channels, classes=classes)
        if isinstance(network, UNet):
            for part in (network.raw, network.blocks, network.heads):
                part.apply(initialise)
    if model.weights.source == "model" and pretrained_stages != 0:
        return network, carry_over(network, model)
    return network, load_weights(network.encoder, model.weights, model.encoder, stages=pretrained_stages)
