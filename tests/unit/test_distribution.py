"""Distributions of one case, exact, and of many, in bounded memory."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest

from seg_transfer.planning.case_fingerprint import intensity_of, intensity_of_sketch
from seg_transfer.planning.distribution import BINS_PER_STD, MOST_BINS, Distribution, Sketch

SHARES = (0.005, 0.25, 0.5, 0.75, 0.995)


def of_values(values: np.ndarray) -> Distribution:
    return Distribution(np.sort(values))


def of_whole(values: np.ndarray) -> Distribution:
    return Distribution.of_counts(np.bincount(values - values.min()), int(values.min()))


def test_counted_and_sorted_values_are_the_same_distribution() -> None:
    values = np.random.default_rng(0).poisson(40, 10_000) - 30
    counted, sorted_ = of_whole(values), of_values(values)
    assert counted.size == sorted_.size == 10_000
    assert counted.mean_and_std() == pytest.approx(sorted_.mean_and_std())
    ranks = np.array([0, 49.5, 5000.25, 9999])
    assert counted.at(ranks).tolist() == sorted_.at(ranks).tolist()
    assert intensity_of(counted) == intensity_of(sorted_)
    without = [each.without_zero() for each in (counted, sorted_)]
    assert [each.size for each in without] == [int((values != 0).sum())] * 2
    assert without[0].at(ranks[:3]).tolist() == without[1].at(ranks[:3]).tolist()
    assert of_values(values[values > 0]).without_zero().size == int((values > 0).sum())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e7])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_percentiles_of_a_sketch_are_off_by_half_a_bin_at_most(scale: float, offset: float) -> None:
    values = (np.random.default_rng(0).gamma(2.0, size=100_000) + offset) * scale
    sketch = Sketch.of(of_values(values))
    assert len(sketch.bins) <= MOST_BINS
    exact = np.quantile(values, SHARES, method="inverted_cdf")
    width = 2.0**sketch.exponent
    assert width <= values.std() / BINS_PER_STD
    assert np.abs(np.array(sketch.percentiles(SHARES)) - exact).max() <= width / 2 * (1 + 1e-6)
    assert (sketch.mean, sketch.variance**0.5) == pytest.approx((values.mean(), values.std()))


def test_whole_numbers_are_exact() -> None:
    values = np.random.default_rng(0).normal(100, 300, 50_000).astype(np.int16)
    exact = np.quantile(values, SHARES, method="inverted_cdf").tolist()
    assert Sketch.of(of_whole(values)).percentiles(SHARES) == exact


def test_an_outlier_takes_one_bin() -> None:
    """A range in place of the standard deviation would leave no bins for the other values."""
    values = np.append(np.random.default_rng(0).normal(size=100_000), 1e4).astype(np.float32)
    exact = np.quantile(values, SHARES, method="inverted_cdf")
    assert np.abs(np.array(Sketch.of(of_values(values)).percentiles(SHARES)) - exact).max() < 0.03


def test_added_cases_weigh_the_same_in_any_order() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(center, 1, count) for center, count in ((0, 1000), (3, 50_000), (-2, 10))]
    sketches = [Sketch.of(of_values(group)) for group in groups]
    pooled = [reduce(add, order) for order in (sketches, sketches[::-1], [sketches[1], sketches[2], sketches[0]])]
    weighted = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    order = np.argsort(weighted)
    below = np.cumsum(weights[order]) / 3
    exact = weighted[order][np.searchsorted(below, np.array(SHARES) * (1 - 1e-9))]
    for each in pooled:
        assert each.weight == pytest.approx(3)
        assert each.mean == pytest.approx(np.mean([group.mean() for group in groups]))
        assert each.variance == pytest.approx(weights @ (weighted - each.mean) ** 2 / 3)
        assert each.percentiles(SHARES) == pytest.approx(exact.tolist(), abs=2e-3)


def test_many_cases_take_no_more_memory_than_a_few() -> None:
    """Cases in other units, such as scanners that scale by other factors, share the bins."""
    random = np.random.default_rng(0)
    pooled = reduce(add, [Sketch.of(of_values(random.normal(0, 10.0**power, 30_000))) for power in (-3, 0, 2, 3) * 5])
    assert len(pooled.bins) <= MOST_BINS
    assert pooled.weight == pytest.approx(20)
    assert pooled.percentiles([0.5])[0] == pytest.approx(0, abs=1)


def test_extreme_values() -> None:
    tiny, huge = Sketch.of(of_values(np.array([1e-30, 2e-30]))), Sketch.of(of_values(np.array([1e30, 3e30])))
    both = tiny + huge
    assert (both.least, both.largest, both.mean) == pytest.approx((1e-30, 3e30, 1e30))
    assert both.percentiles([1.0]) == pytest.approx([3e30])
    constant = Sketch.of(of_values(np.full(9, 0.1, np.float32)))
    assert constant.percentiles(SHARES) == pytest.approx([0.1] * 5)
    assert Sketch.of(of_whole(np.array([7, 3]))).percentiles([0.005, 0.5, 0.995]) == [3, 3, 7]


def test_a_pooled_case_counts_once_however_often_it_is_there() -> None:
    values = of_values(np.random.default_rng(0).normal(size=10_000))
    alone, twice = Sketch.of(values), Sketch.of(values) + Sketch.of(values)
    assert list(intensity_of_sketch(twice).model_dump().values()) == pytest.approx(
        list(intensity_of(values).model_dump().values()), abs=3e-3
    )
    assert intensity_of_sketch(alone) == intensity_of_sketch(twice)
