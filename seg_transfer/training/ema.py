"""Averaged weights: an exponential moving average of everything the network holds, BatchNorm statistics included."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class AveragedNetwork:
    """A copy of a network whose weights and statistics trail those of the one that learns.

    The decay after t updates is ``min(decay, (1 + t) / (10 + t))``, so that the average reaches back over at most a
    ninth of the steps so far: short trainings are not held back by their start. Running BatchNorm statistics are
    averaged like weights, which gives the average statistics of its own and smooths those of small batches. What is
    frozen stays equal to the bit, since ``a + w * (a - a)`` is ``a``.

    Args:
        network: Copied; the copy is in eval mode and asks for no gradient.
        decay: Of the average in the long run; 0: the copy always equals the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, updates: int) -> None:
        """Move towards the network.

        Args:
            network: The one that learns.
            updates: How many updates there were before.
        """
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averaged, latest = [], []
        for mine, theirs in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mine.is_floating_point():
                averaged.append(mine)
                latest.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, latest, 1 - decay)
