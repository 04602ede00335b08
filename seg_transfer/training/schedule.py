"""How far training has come, and the learning rate there."""

from __future__ import annotations

from dataclasses import dataclass

WARMUP_START = 0.1
POWER = 0.9


@dataclass(frozen=True)
class Budget:
    """What training may use; either limit may be absent, but not both.

    Args:
        steps: Optimizer steps.
        seconds: Training time; validation, saving and drawing are not counted.
    """

    steps: int | None
    seconds: float | None

    def progress(self, steps: int, seconds: float) -> float:
        """Share used up, 0 to 1: the larger of steps done and time used.

        Without a limit on seconds it depends on the step alone, and so does everything that training does.
        """
        shares = []
        if self.steps is not None:
            shares.append(steps / self.steps)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return min(1.0, max(shares))


def rate_factor(progress: float, warmup: float) -> float:
    """Learning rate over its peak: a linear climb from a tenth, then ``(1 - p) ** 0.9`` down to zero.

    The decay is that of nnU-Net (Isensee et al., Nature Methods 2021), stretched over what follows the warm-up. The
    climb does not start at zero because the first step would then do nothing.

    Args:
        progress: Share of the budget used, 0 to 1.
        warmup: Share of the budget in which the rate climbs.
    """
    if progress < warmup:
        return WARMUP_START + (1 - WARMUP_START) * progress / warmup
    if warmup == 1:
        return 1.0
    return ((1 - progress) / (1 - warmup)) ** POWER
