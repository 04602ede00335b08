"""How far chance alone may move a mean over cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

DRAWS = 2000
PERCENTILES = (2.5, 97.5)


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean: percentiles of means of values drawn with replacement.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993. Given paired differences, one per case, it says
    whether they are more than chance. From few cases it is too narrow.

    Args:
        values: One per case, without nan.
        seed: Of the drawing.

    Returns:
        Lower and upper end; nan for fewer than two values, which say nothing about chance.
    """
    if len(values) < 2:
        return math.nan, math.nan
    draws = np.random.default_rng(seed).integers(len(values), size=(DRAWS, len(values)))
    lower, upper = np.percentile(np.asarray(values)[draws].mean(axis=1), PERCENTILES)
    return float(lower), float(upper)
