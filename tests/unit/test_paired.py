"""A run and its from-scratch control, case by case."""

from __future__ import annotations

import math

import pytest
from made_scores import scores

from seg_transfer.evaluation.comparison import compare


def test_cases_are_paired_over_all_folds() -> None:
    run = [scores({"a": 0.9, "b": 0.8}), scores({"c": 0.7, "x": 0.1})]
    control = [scores({"a": 0.8, "b": 0.6}), scores({"c": 0.6, "y": 0.9})]
    found = compare(run, control, strategies=("gradual", "scratch"))
    assert found.cases == ("a", "b", "c")
    assert (found.run.strategy, found.control.strategy) == ("gradual", "scratch")
    assert (found.run.dice, found.control.dice) == ({"liver": pytest.approx(0.8)}, {"liver": pytest.approx(2 / 3)})
    assert found.difference == pytest.approx(0.4 / 3) == pytest.approx(found.run.mean_dice - found.control.mean_dice)
    half = 4.3027 * (0.01 / 3) ** 0.5 / 3**0.5  # Student's t of two degrees of freedom
    assert (found.lower, found.upper) == pytest.approx((0.4 / 3 - half, 0.4 / 3 + half), abs=1e-4)
    assert not found.improves and not found.worsens


DICE = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}
BETTER = {"a": 0.61, "b": 0.69, "c": 0.8, "d": 0.9}


def test_significant_differences() -> None:
    assert compare([scores(BETTER)], [scores(DICE)], strategies=("gradual", "scratch")).improves
    found = compare([scores(DICE)], [scores(BETTER)], strategies=("gradual", "scratch"))
    assert found.worsens and not found.improves


def test_two_cases_of_the_same_sign_prove_nothing() -> None:
    """By chance alone they have a probability of one half."""
    found = compare([scores({"a": 0.8, "b": 0.6})], [scores({"a": 0.9, "b": 0.8})], strategies=("gradual", "scratch"))
    assert not found.worsens and not found.improves


def test_chance_is_neither() -> None:
    found = compare([scores({"a": 0.9, "b": 0.6})], [scores({"a": 0.8, "b": 0.8})], strategies=("frozen", "scratch"))
    assert not found.worsens and not found.improves and found.lower < 0 < found.upper


def test_undefined_cases_and_single_ones() -> None:
    found = compare(
        [scores({"a": 0.9, "b": math.nan})], [scores({"a": 0.8, "b": 0.0})], strategies=("frozen", "scratch")
    )
    assert found.difference == pytest.approx(0.1) and math.isnan(found.lower)
    assert not found.improves and not found.worsens
    empty = compare([scores({"b": math.nan})], [scores({"b": 0.0})], strategies=("frozen", "scratch"))
    assert math.isnan(empty.difference) and '"difference":null' in empty.model_dump_json()
