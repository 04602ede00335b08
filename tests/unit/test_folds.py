"""Folds from options and measurements: nothing leaks, and leaks in the user's file are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_fingerprints import fingerprint

from seg_transfer.errors import UserError
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.folds import FoldAssignment, assign_folds, read_fold_files


def with_cases(made: Fingerprint, **changes: dict) -> Fingerprint:
    """Change some cases by identifier."""
    return made.model_copy(
        update={"cases": tuple(case.model_copy(update=changes.get(case.id, {})) for case in made.cases)}
    )


def without(made: Fingerprint, label: int, *cases: str) -> Fingerprint:
    """Take a label away from some cases."""
    absent = made.cases[0].labels[label].model_copy(update={"voxels": 0, "slices": (0, 0, 0)})
    labels = list(made.cases[0].labels)
    labels[label] = absent
    return with_cases(made, **{case: {"labels": tuple(labels)} for case in cases})


def assigned(cases: list[str], made: Fingerprint, **options: Any) -> FoldAssignment:
    """Read the files that the options name, and assign the measured cases to folds."""
    asked = PlanOptions(dataset="made", **options)
    return assign_folds(asked, read_fold_files(asked, cases), made)


@pytest.fixture
def cases() -> list[str]:
    return [case.id for case in fingerprint().cases]


def test_identical_images_share_a_fold_and_are_noted(cases: list[str]) -> None:
    same = {"image_hash": "image 0", "label_hash": "label 0"}
    made = with_cases(fingerprint(), case_004=same, case_007={"image_hash": "image 5"})
    folds = assigned(cases, made)
    for split in folds.splits:
        for pair in [{"case_000", "case_004"}, {"case_005", "case_007"}]:
            assert len(pair & set(split.validation)) in (0, 2)
    assert folds.notes == (
        "case_000 and case_004 hold the same image and the same label: they share a fold",
        "case_005 and case_007 hold the same image under different labels, of which at most one is right: "
        "they share a fold",
    )
    assert assigned(cases, fingerprint()).notes == ()


def test_rare_labels_are_in_every_fold(cases: list[str]) -> None:
    made = without(fingerprint(), 1, *cases[:5])
    for seed in range(4):
        folds = assigned(cases, made, seed=seed)
        assert [len(set(split.validation) & set(cases[5:])) for split in folds.splits] == [1] * 5
        assert folds.notes == ()


def test_a_fold_without_a_label_is_noted(cases: list[str]) -> None:
    made = without(fingerprint(), 1, *cases[1:])
    folds = assigned(cases, made, folds=2)
    (fold,) = [index for index, split in enumerate(folds.splits) if cases[0] in split.validation]
    assert folds.notes == (f"fold {fold} trains on no case with b",)


def test_leaks_of_a_users_file_are_named(cases: list[str], tmp_path: Path) -> None:
    file, groups = tmp_path / "splits.json", tmp_path / "groups.json"
    file.write_text(json.dumps([{"train": cases[:5], "val": cases[5:]}, {"train": cases[5:], "val": cases[:4]}]))
    groups.write_text(json.dumps({case: "anna" if case in ("case_003", "case_009") else case for case in cases}))
    made = with_cases(fingerprint(), case_004={"image_hash": "image 8"})
    folds = assigned(cases, made, splits=file, groups=groups)
    assert [split.validation for split in folds.splits] == [tuple(cases[5:]), tuple(cases[:4])]
    ending = "so that its scores are too high"
    assert folds.notes == (
        "case_004 and case_008 hold the same image under different labels, of which at most one is right",
        f"{file}: fold 0 trains on case_004 and validates on case_008: the same image, {ending}",
        f"{file}: fold 0 trains on case_003 and validates on case_009: one group, anna, {ending}",
        f"{file}: fold 1 trains on case_009 and validates on case_003: one group, anna, {ending}",
    )


def test_broken_cases_are_not_assigned_but_may_be_named(cases: list[str], tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps([{"train": cases[:5], "val": ["broken", *cases[5:]]}]))
    folds = assigned([*cases, "broken"], fingerprint(), splits=file)
    assert folds.splits[0].validation == tuple(cases[5:])
    with pytest.raises(UserError, match="not among the cases: broken"):
        assigned(cases, fingerprint(), splits=file)


def test_every_case_needs_a_group(cases: list[str], tmp_path: Path) -> None:
    file = tmp_path / "groups.json"
    file.write_text(json.dumps(dict.fromkeys(cases[1:], "anna")))
    with pytest.raises(UserError, match="no group for case_000"):
        assigned(cases, fingerprint(), groups=file)


def test_a_fold_of_the_users_file_with_only_broken_training_cases_is_refused(tmp_path: Path, cases: list[str]) -> None:
    whole = fingerprint()
    left = whole.model_copy(update={"cases": whole.cases[1:]})
    file = tmp_path / "splits.json"
    file.write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}, {"train": cases[:1], "val": cases[1:]}]))
    with pytest.raises(UserError, match="fold 1 has no training case left"):
        assigned(cases, left, splits=file)
    file.write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
    (split,) = assigned(cases, left, splits=file).splits
    assert split.train == tuple(cases[1:3])
