"""How far chance alone may move a mean over cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

TAIL = 0.975


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t (Biometrika 6:1, 1908).

    Given paired differences, one per case, it says whether they are more than chance. Percentiles of a bootstrap would
    not for the few cases that a fold holds out: of two they are the smaller and the larger, so that two differences of
    the same sign, which chance gives every second time, would count as proof.

    Args:
        values: One per case, without nan.

    Returns:
        Lower and upper end; nan for fewer than two values, which say nothing about chance.
    """
    if len(values) < 2:
        return math.nan, math.nan
    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, TAIL) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean + half
