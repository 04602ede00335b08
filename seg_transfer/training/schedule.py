"""Budget and learning rate of a training."""

from __future__ import annotations

from dataclasses import dataclass

WARMUP_START = 0.1
POWER = 0.9


@dataclass(frozen=True)
class Budget:
    """Limits of a training, at least one of the two.

    Attributes:
        steps: Optimizer steps.
        seconds: Training time, without validation, saving and drawing.
    """

    steps: int | None
    seconds: float | None

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget used, 0 to 1: the larger of the shares of steps and of seconds."""
        shares = []
        if self.steps is not None:
            shares.append(steps / self.steps)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return min(1.0, max(shares))


def rate_factor(progress: float, warmup: float) -> float:
    """Learning rate over its peak: a linear warm-up from 0.1, then nnU-Net's decay ``(1 - p) ** 0.9`` to zero.

    The warm-up does not start at zero, so that the first step changes the weights. The decay is stretched over the rest
    of the budget (Isensee et al., Nature Methods 2021).

    Args:
        progress: Share of the budget used, 0 to 1.
        warmup: Share of the budget in which the rate climbs.
    """
    if progress < warmup:
        return WARMUP_START + (1 - WARMUP_START) * progress / warmup
    if warmup == 1:
        return 1.0
    return ((1 - progress) / (1 - warmup)) ** POWER
