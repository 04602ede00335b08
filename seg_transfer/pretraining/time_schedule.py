"""Learning rate and image size by the share of the time budget that is used up."""

from __future__ import annotations

import math

WARMUP = 0.06
WARMUP_START = 0.1
"""Share of the peak at the start: at zero the first step would change nothing."""
GROWTH = ((0.0, 40 / 64), (0.45, 52 / 64), (0.70, 1.0))
"""Share of the time -> share of the full side from there on: steps on smaller images are faster (progressive resizing,
as in Tan & Le, EfficientNetV2, ICML 2021)."""


def rate_factor(progress: float) -> float:
    """Learning rate over its peak: a linear climb in the first :data:`WARMUP` of the time, then half a cosine to 0.

    Args:
        progress: Share of the time used up, 0 to 1.
    """
    if progress < WARMUP:
        return WARMUP_START + (1 - WARMUP_START) * progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def side_at(progress: float, full: int) -> int:
    """Pixels of the side of a batch's images.

    Args:
        progress: Share of the time used up, 0 to 1.
        full: The side at the end.
    """
    share = next(share for start, share in reversed(GROWTH) if progress >= start)
    return round(share * full)
