"""Dice, means of defined values and confidence intervals; expected values are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from seg_transfer.util.statistics import dice, mean_interval, mean_of_defined, none_if_undefined


def test_dice_of_counts() -> None:
    assert dice(3, 4, 8) == 0.5
    assert dice(0, 0, 5) == dice(0, 5, 0) == 0
    assert math.isnan(dice(0, 0, 0))


def test_a_mean_leaves_out_nan_and_none() -> None:
    assert mean_of_defined([1.0, math.nan, None, 4.0]) == 2.5
    assert mean_of_defined([0.0, 0.0]) == 0
    assert math.isnan(mean_of_defined([math.nan, None])) and math.isnan(mean_of_defined([]))


def test_nan_is_none_in_records() -> None:
    assert none_if_undefined(math.nan) is None
    assert none_if_undefined(0.0) == 0


def test_equal_values_have_an_interval_of_width_zero() -> None:
    assert mean_interval([0.25] * 5) == (0.25, 0.25)


def test_the_interval_is_that_of_students_t() -> None:
    assert mean_interval([0.0, 1.0] * 50) == pytest.approx((0.5 - 1.984 * 0.05025, 0.5 + 1.984 * 0.05025), abs=1e-4)
    assert mean_interval([0.0, 1.0]) == pytest.approx((0.5 - 12.706 * 0.5, 0.5 + 12.706 * 0.5), abs=1e-3)


def test_five_percent_of_random_triples_are_significant() -> None:
    """Of the percentile bootstrap it would be a quarter."""
    triples = np.random.default_rng(0).normal(size=(2000, 3))
    significant = [not low <= 0 <= high for low, high in map(mean_interval, triples.tolist())]
    assert np.mean(significant) == pytest.approx(0.05, abs=0.015)


def test_one_value_has_no_interval() -> None:
    assert all(map(math.isnan, mean_interval([0.3])))
