"""Builds a plan's network with trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from seg_transfer.errors import UserError
from seg_transfer.network.build import build_network, lay_channels_last
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint import Tensors


def ready_network(tensors: Tensors, plan: Plan, device: torch.device, *, where: Path) -> nn.Module:
    """Build a plan's network with trained weights for prediction.

    Args:
        tensors: State dict of the network.
        plan: The network's plan.
        device: Device of the network.
        where: File of the tensors, for messages.

    Raises:
        UserError: If the tensors do not fit the network.
    """
    network, _ = build_network(
        plan.model, channels=len(plan.data.channels), classes=len(plan.data.outputs), seed=0, pretrained_stages=0
    )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        hint = "train again with this version of segtl"
        cause = "; ".join(map(str.strip, str(error).splitlines()))
        raise UserError(f"its weights do not fit the network of its plan: {cause}", where=where, hint=hint) from None
    network.eval().to(device)
    lay_channels_last(network)
    return network
