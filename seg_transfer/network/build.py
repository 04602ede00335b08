"""The only factory of networks."""

from __future__ import annotations

import torch
from torch import nn

from seg_transfer.network.encoder_network import Reader
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
    return network, _load(network, model, pretrained_stages)


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
    _load(network, model, None)
    return network


def lay_channels_last(network: nn.Module) -> None:
    """Lay kernels out as convolutions are fastest; a 3D network holds 2D convolutions too, so each by its rank.

    Beside channels_last activations this made a 2D window 1.7 times as fast on the CPU.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def _load(network: Reader, model: ModelPlan, stages: int | None) -> LoadReport:
    """Load what ``model.weights`` names into so many stages, or into all."""
    if model.weights.source == "model" and stages != 0:
        return carry_over(network, model)
    return load_weights(network.encoder, model.weights, model.encoder, stages=stages)
