"""Learning rate and image size as functions of the elapsed share of the time budget."""

from __future__ import annotations

import math

WARMUP = 0.06
WARMUP_START = 0.1
"""Share of the peak at the start; at 0 the first step would have no effect."""
GROWTH = ((0.0, 40 / 64), (0.45, 52 / 64), (0.70, 1.0))
"""Share of the time, and share of the full side from then on: steps on smaller images are faster (progressive resizing,
as in Tan & Le, EfficientNetV2, ICML 2021)."""


def rate_factor(progress: float) -> float:
    """Learning rate over its peak: linear warm-up for the share :data:`WARMUP` of the time, then cosine decay to 0.

    Args:
        progress: Elapsed share of the time, 0 to 1.
    """
    if progress < WARMUP:
        return WARMUP_START + (1 - WARMUP_START) * progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


def side_at(progress: float, full: int) -> int:
    """Side in pixels of a batch's images.

    Args:
        progress: Elapsed share of the time, 0 to 1.
        full: The side at the end.
    """
    share = next(share for start, share in reversed(GROWTH) if progress >= start)
    return round(share * full)
