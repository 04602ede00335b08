"""Dice, means that leave out undefined values, and the confidence interval of a mean.

Undefined values are nan in memory and null in JSON files. numpy and scipy are imported inside the functions, since
``segtl --help`` imports this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def dice(common: float, predicted: float, reference: float) -> float:
    """Dice coefficient of two masks from their numbers of voxels.

    Args:
        common: Voxels in both masks.
        predicted: Voxels in the predicted mask.
        reference: Voxels in the reference mask.

    Returns:
        ``2 |P and R| / (|P| + |R|)``; nan if both masks are empty.
    """
    total = predicted + reference
    return 2 * common / total if total else math.nan


def mean_of_defined(values: Iterable[float | None]) -> float:
    """Mean without nan and None; nan if no value is defined."""
    import numpy as np

    defined = [value for value in values if value is not None and not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def none_if_undefined(value: float) -> float | None:
    """The value as JSON files hold it: None in place of nan."""
    return None if math.isnan(value) else value


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of a mean by Student's t (Biometrika 6:1, 1908).

    A mean of paired differences, one per case, is significant if its interval does not contain 0. The percentile
    bootstrap is not used: a fold holds out few cases, and for two cases its interval runs from the smaller to the
    larger difference. Two differences of the same sign, with a probability of one half, would then be significant.

    Args:
        values: One per case, without nan.

    Returns:
        Lower and upper end; nan for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    import numpy as np
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean + half
