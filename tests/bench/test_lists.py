"""The lists of cases in ``bench/lists``: nested, of whole patients, and never of test cases."""

from __future__ import annotations

import itertools

import pytest
import regret_table
from runner import HERE, lists_of

DATASETS = sorted(path.stem for path in (HERE / "lists").glob("*.json"))


def test_every_data_set_of_the_benchmarks_has_lists() -> None:
    assert DATASETS == ["abdomen_mr", "cells", "hippocampus", "retina", "sarcoma"]


@pytest.mark.parametrize("dataset", DATASETS)
def test_lists_are_nested_and_free_of_test_cases(dataset: str) -> None:
    lists = lists_of(dataset)
    nested = sorted(lists["few_shot"].values(), key=len)
    assert [str(len(cases)) for cases in nested] == sorted(lists["few_shot"], key=int)
    for cases in (*nested, lists["test"]):
        assert len(cases) == len(set(cases))
    for shorter, longer in itertools.pairwise(nested):
        assert set(shorter) < set(longer)
    trained, tested = (set(map(regret_table.patient_of, cases)) for cases in (nested[-1], lists["test"]))
    assert tested and not trained & tested
