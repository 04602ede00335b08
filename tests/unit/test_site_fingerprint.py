"""Sums over cases: added in any order they are the same, and the plan of a sum is that of all cases."""

from __future__ import annotations

import itertools
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_fingerprints import fingerprint, plan_of
from pydantic import ValidationError

from seg_transfer.planning.counted import MOST_ROWS, Counted, Moments
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.site_fingerprint import SiteFingerprint

PLANS = Path(__file__).resolve().parents[2] / "plans"
DATASETS = ("hippocampus", "abdomen_mr", "sarcoma", "cells", "retina")


def without_means(site: SiteFingerprint) -> dict[str, Any]:
    """All but the moments, whose last bits depend on the order."""
    content = site.model_dump()
    for channel in content["channels"]:
        del channel["label_means"]
    return content


def real(name: str) -> Fingerprint:
    return Fingerprint.load(PLANS / f"{name}.fingerprint.json")


def part(made: Fingerprint, cases: slice) -> SiteFingerprint:
    return made.model_copy(update={"cases": made.cases[cases]}).site()


@pytest.mark.parametrize("name", DATASETS)
def test_sites_add_up_to_all_their_cases_in_any_order(name: str) -> None:
    made = real(name)
    one, two, three = part(made, slice(3)), part(made, slice(3, 4)), part(made, slice(4, None))
    whole = made.site()
    for total in ((one + two) + three, one + (two + three), (three + one) + two):
        assert without_means(total) == without_means(whole)
        for channel, expected in zip(total.channels, whole.channels, strict=True):
            means, wanted = channel.label_means, expected.label_means
            pairs = zip((*means.as_stored, *means.zscore), (*wanted.as_stored, *wanted.zscore), strict=True)
            for found, moments in pairs:
                assert found.model_dump() == pytest.approx(moments.model_dump(), rel=1e-12, abs=1e-12)


def test_every_case_gives_a_part() -> None:
    made = real("abdomen_mr")
    parts = [part(made, slice(index, index + 1)) for index in range(len(made.cases))]
    assert without_means(reduce(add, parts)) == without_means(made.site())


@pytest.mark.parametrize("name", DATASETS)
def test_pooled_figures_of_a_sum_are_those_that_were_measured(name: str) -> None:
    """The committed figures were pooled from the single cases, before there were sums."""
    made = real(name)
    pooled = made.with_sites(part(made, slice(2)) + part(made, slice(2, None)))
    for field in ("spacing", "shape", "cropped_shape", "crop_ratio", "labels"):
        assert getattr(pooled, field) == getattr(made, field), field
    for found, expected in zip(pooled.channels, made.channels, strict=True):
        assert found.model_copy(update={"foreground": None}) == expected.model_copy(update={"foreground": None})


def test_a_site_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    site = real("sarcoma").site()
    site.save(tmp_path / "site.json")
    assert SiteFingerprint.load(tmp_path / "site.json") == site


def test_the_plan_of_a_site_with_others_keeps_its_own_cases() -> None:
    here, there = fingerprint(cases=4, spacing=(1, 1, 1)), fingerprint(cases=6, spacing=(1, 1, 2))
    alone, both = plan_of(here), plan_of(here.with_sites(here.site() + there.site()))
    assert both.data.cases == alone.data.cases and both.recipe.splits == alone.recipe.splits
    assert (alone.data.spacing, both.data.spacing) == ((1, 1, 1), (2, 1, 1))
    assert both.training_images is not None and both.training_images.cases == 10
    [why] = [reason.reason for reason in both.reasons if reason.field == "data.spacing"]
    assert why == "median of 10 cases; 6 of the cases are at other sites"
    assert both.expected.disk_bytes < plan_of(fingerprint(cases=10, spacing=(1, 1, 1))).expected.disk_bytes


def rows_of(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    made = {
        "few": rng.integers(1, 50, (count, 1)).astype(float),
        "lengths": rng.lognormal(5, 0.3, (count, 1)),
        "signed": rng.normal(0, 1000, (count, 1)),
        "rows": rng.lognormal([5, 5, 4], [0.1, 0.1, 0.3], (count, 3)),
    }
    return made[kind]


@pytest.mark.parametrize("kind", ["few", "lengths", "signed", "rows"])
def test_counts_are_associative_and_commutative_bit_for_bit(kind: str) -> None:
    rows = rows_of(kind, 5000)
    expected = Counted.of(rows)
    assert expected.size == len(rows) and len(expected.rows) <= MOST_ROWS
    assert (expected.dropped_bits > 0) == (kind != "few")
    first, *others = (Counted.of(rows[start:end]) for start, end in itertools.pairwise([0, 20, 4600, 4900, 5000]))
    assert reduce(add, others, first) == expected
    assert first + reduce(add, reversed(others)) == expected


@pytest.mark.parametrize("kind", ["few", "lengths", "signed"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_quantiles_are_wrong_by_no_more_than_stated(kind: str, share: float) -> None:
    rows = rows_of(kind, 9001)
    counted = Counted.of(rows)
    exact = np.quantile(rows, share, method="linear")
    error = abs(counted.column().quantile(share) - exact)
    assert error <= 2.0 ** (counted.dropped_bits - 53) * abs(exact) * (1 + 1e-9)
    assert error <= 2e-3 * abs(exact)
    assert counted.dropped_bits or error == 0


def test_few_counts_are_exact() -> None:
    values = [3.0, 1.0, 2.5, 1.0, -0.0, 0.0]
    assert Counted.of(values) == Counted(rows=((0,), (1,), (2.5,), (3,)), counts=(2, 2, 1, 1))
    for share in (0, 0.1, 0.5, 0.77, 1):
        assert Counted.of(values).column().quantile(share) == pytest.approx(np.quantile(values, share), rel=1e-15)
    assert Counted.of([]) + Counted.of(values) == Counted.of(values) == Counted.of(values) + Counted.of([])


def test_zero_stays_zero_in_a_coarse_bin() -> None:
    counted = Counted.of(np.append(rows_of("lengths", 9000), np.zeros((9001, 1)), axis=0))
    assert counted.dropped_bits and counted.median() == 0


def test_moments_of_a_sum() -> None:
    values = np.random.default_rng(0).normal(1000, 3, 100)
    total = Moments.of(values[:1]) + Moments.of(np.append(values[1:], np.nan)) + Moments()
    assert (total.count, total.mean) == (100, pytest.approx(values.mean(), rel=1e-12))
    assert total.variance == pytest.approx(values.var(), rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": [[1.0]], "counts": [-1]},
        {"rows": [[1.0]], "counts": [0]},
        {"rows": [[1.0]], "counts": [1.5]},
        {"rows": [[1.0]], "counts": [True]},
        {"rows": [[1.0]], "counts": ["1"]},
        {"rows": [["1"]], "counts": [1]},
        {"rows": [[1e200]], "counts": [1]},
        {"rows": [[float("nan")]], "counts": [1]},
        {"rows": [[1.0], [1.0, 2.0]], "counts": [1, 1]},
        {"rows": [[1.0]], "counts": [1, 1]},
        {"rows": [[1.0]], "counts": [2**60]},
        {"rows": [[1.0]], "counts": [1], "dropped_bits": 64},
        {"rows": [[float(index)] for index in range(MOST_ROWS + 1)], "counts": [1] * (MOST_ROWS + 1)},
    ],
)
def test_impossible_counts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Counted.model_validate(wrong)
