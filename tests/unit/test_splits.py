from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from seg_transfer.data.splits import (
    Leak,
    Split,
    groups_by_regex,
    groups_from_file,
    join_groups,
    leaks,
    make_splits,
    splits_from_file,
    splits_note,
)
from seg_transfer.errors import UserError


def split(train: Iterable[str], validation: Iterable[str]) -> Split:
    return Split(train=tuple(train), validation=tuple(validation))


CASES = [f"case_{number:02d}" for number in range(13)]


def test_every_case_is_validated_on_once_and_never_while_it_is_trained_on() -> None:
    splits = make_splits(CASES, folds=5)
    assert sorted(case for one in splits for case in one.validation) == CASES
    assert sorted(len(one.validation) for one in splits) == [2, 2, 3, 3, 3]
    for one in splits:
        assert sorted(one.train + one.validation) == CASES
    assert splits_note(splits, 5) is None


def test_the_seed_decides_and_the_order_of_cases_does_not() -> None:
    assert make_splits(CASES, seed=3) == make_splits(CASES[::-1], seed=3)
    assert make_splits(CASES, seed=3) != make_splits(CASES, seed=4)


def test_groups_stay_together_and_folds_stay_even() -> None:
    groups = groups_by_regex([f"p{patient}_{visit}" for patient in range(8) for visit in range(1 + patient)], r"p(\d)")
    splits = make_splits(list(groups), folds=4, groups=groups)
    for one in splits:
        assert not {groups[case] for case in one.train} & {groups[case] for case in one.validation}
    assert [len(one.validation) for one in splits] == [9, 9, 9, 9]
    with pytest.raises(UserError, match="case new has no group"):
        make_splits([*groups, "new"], groups=groups)


def held_out_with(label: str, splits: list[Split], labels: dict[str, tuple[str, ...]]) -> list[int]:
    return [sum(label in labels[case] for case in one.validation) for one in splits]


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_over_folds_of_even_size(seed: int) -> None:
    cases = [f"case_{number:02d}" for number in range(53)]
    labels = {
        case: ("organ", *(["tumour"] if index % 5 == 0 else []), *(["cyst"] if index in (5, 6, 7, 8, 10) else []))
        for index, case in enumerate(cases)
    }
    splits = make_splits(cases, folds=5, seed=seed, labels=labels)
    assert sorted(len(one.validation) for one in splits) == [10, 10, 11, 11, 11]
    assert held_out_with("cyst", splits, labels) == [1] * 5
    assert sorted(held_out_with("tumour", splits, labels)) == [2, 2, 2, 2, 3]
    assert make_splits(cases[::-1], folds=5, seed=seed, labels=labels) == splits


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_spread_over_folds_of_groups(seed: int) -> None:
    groups = {f"p{patient:02d}_{visit}": f"p{patient:02d}" for patient in range(20) for visit in range(1 + patient % 3)}
    labels = {case: ("tumour",) if int(group[1:]) % 4 == 1 else () for case, group in groups.items()}
    splits = make_splits(list(groups), folds=4, seed=seed, groups=groups, labels=labels)
    for one in splits:
        assert not {groups[case] for case in one.train} & {groups[case] for case in one.validation}
    sizes = [len(one.validation) for one in splits]
    assert sum(sizes) == len(groups) and max(sizes) - min(sizes) <= 1
    assert sorted(held_out_with("tumour", splits, labels)) == [2, 3, 3, 3]


def test_labels_that_every_case_holds_change_nothing() -> None:
    assert make_splits(CASES, labels=dict.fromkeys(CASES, ("a", "b"))) == make_splits(CASES)


def test_groups_are_joined() -> None:
    assert join_groups("abcd", None, []) is None
    assert join_groups("abcd", None, ["bd"]) == {"a": "a", "b": "b", "c": "c", "d": "b"}
    groups = {"a": "one", "b": "one", "c": "two", "d": "three"}
    assert join_groups("abcd", groups, ["ab"]) is groups
    assert join_groups("abcd", groups, ["bc", "ad"]) == dict.fromkeys("abcd", "one")
    splits = make_splits("abcdef", folds=3, groups=join_groups("abcdef", None, ["ac", "cf"]))
    assert ("a", "c", "f") in [one.validation for one in splits]


def test_leaks_are_found() -> None:
    splits = [split("ab", "cd"), split("cd", "ab"), split("abc", "d")]
    assert leaks(splits, ["ab", "cd"]) == [Leak(2, ("c",), ("d",))]
    assert leaks(splits, ["acd"]) == [
        Leak(0, ("a",), ("c", "d")),
        Leak(1, ("c", "d"), ("a",)),
        Leak(2, ("a", "c"), ("d",)),
    ]
    assert leaks(splits[:2], ["ab"]) == []


def test_few_cases() -> None:
    splits = make_splits(["a", "b", "c"], folds=5)
    assert sorted(one.validation for one in splits) == [("a",), ("b",), ("c",)]
    assert splits_note(splits, 5) == "there are 3 cases (or groups) only: 3 folds instead of 5"
    one = make_splits(["a"])
    assert one == [split("a", "a")]
    assert "both training and validation" in (splits_note(one, 5) or "")
    assert make_splits(["a", "b"], groups={"a": "x", "b": "x"}) == [split("ab", "ab")]


@pytest.mark.parametrize(("cases", "folds", "message"), [([], 5, "no cases"), (CASES, 1, r"1 fold\(s\)")])
def test_what_cannot_be_split(cases: list[str], folds: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_splits(cases, folds=folds)


def test_groups_by_regex() -> None:
    assert groups_by_regex(["retina_01L", "retina_01R"], r"retina_(\d+)") == {"retina_01L": "01", "retina_01R": "01"}
    assert groups_by_regex(["a1x", "a2x"], r"a\d") == {"a1x": "a1", "a2x": "a2"}
    with pytest.raises(UserError, match="finds no group in case b1"):
        groups_by_regex(["a1", "b1"], r"a(\d)")
    with pytest.raises(UserError, match="no regular expression"):
        groups_by_regex(["a1"], "(")


def test_groups_from_file(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("\ufeffa,one\nb, one\n\nc,two\n", encoding="utf-8")
    assert groups_from_file(table) == {"a": "one", "b": "one", "c": "two"}
    table.write_text("a,one\na,two\n", encoding="utf-8")
    with pytest.raises(UserError, match="case a is in the groups one and two"):
        groups_from_file(table)
    table.write_text("a;one\n", encoding="utf-8")
    with pytest.raises(UserError, match="two columns"):
        groups_from_file(table)
    listed = tmp_path / "groups.json"
    listed.write_text('{"a": 1, "b": "x"}', encoding="utf-8")
    assert groups_from_file(listed) == {"a": "1", "b": "x"}
    with pytest.raises(UserError, match="no such file"):
        groups_from_file(tmp_path / "absent.json")


def test_splits_from_file(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "validation": ["a"]}]))
    assert splits_from_file(path) == [split("a", "b"), split("b", "a")]
    for content, message in [
        ('[{"train": ["a", "b"], "val": ["b"]}]', "fold 0 trains and validates on b"),
        ('[{"train": ["a"]}]', "fold 0 has no lists train and val"),
        ('[{"train": [], "val": ["a"]}]', "fold 0 has no lists"),
        ('{"train": []}', "not a list of folds"),
        ("[", "not readable as JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            splits_from_file(path)
