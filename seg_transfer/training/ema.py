"""Exponential moving average (EMA) of a network's weights and BatchNorm statistics."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class AveragedNetwork:
    """A copy of a network with the moving average of its weights and BatchNorm statistics.

    The decay after t updates is ``min(decay, (1 + t) / (10 + t))``, so that the average spans at most a ninth of the
    steps so far and short trainings are not held back by their start. Frozen weights stay equal to the bit.

    Args:
        network: The network to copy; the copy is in eval mode and has no gradients.
        decay: Largest decay; with 0 the copy always equals the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Update the average from the network that learns, after a number of earlier updates."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averaged, latest = [], []
        for average, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if average.is_floating_point():
                averaged.append(average)
                latest.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averaged, latest, 1 - decay)
