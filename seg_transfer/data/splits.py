"""Folds of a cross-validation: dealt at random, by group, or read from a file."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg_transfer.errors import UserError

Split = tuple[list[str], list[str]]
"""Cases to train on, cases to validate on."""


def make_splits(
    cases: Sequence[str], *, folds: int = 5, seed: int = 0, groups: Mapping[str, str] | None = None
) -> list[Split]:
    """Deal the cases to folds of about equal size; every case is validated on exactly once.

    Groups are shuffled and then, the largest first, put into the fold that is smallest so far; without groups every
    case is one of its own. :func:`splits_note` says what had to be done otherwise than asked.

    Args:
        cases: Case identifiers; their order does not matter.
        folds: How many; as many as there are groups if those are fewer.
        seed: Of the shuffling.
        groups: Case -> group (a patient, say); cases of one group stay together.

    Returns:
        One (train, validation) per fold. A single group is trained and validated on alike.

    Raises:
        UserError: If there are no cases, fewer than 2 folds, or a case has no group.
    """
    if not cases:
        raise UserError("there are no cases to split")
    if folds < 2:
        raise UserError(f"{folds} fold(s) leave nothing to validate on", where="folds", mend="use 2 or more")
    members = _members(cases, groups)
    names = sorted(members)
    shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    validation: list[list[str]] = [[] for _ in range(min(folds, len(names)))]
    for name in sorted(shuffled, key=lambda name: -len(members[name])):
        min(validation, key=len).extend(members[name])
    if len(validation) == 1:
        return [(sorted(cases), sorted(cases))]
    return [(sorted(set(cases) - set(held_out)), sorted(held_out)) for held_out in validation]


def splits_note(splits: Sequence[Split], folds: int) -> str | None:
    """What the user should know about splits for which ``folds`` folds were asked; None if all is as asked."""
    if len(splits) == 1 and splits[0][0] == splits[0][1]:
        return "there is one case (or group) only: it is trained and validated on alike, so its scores say little"
    if len(splits) < folds:
        return f"there are {len(splits)} cases (or groups) only: {len(splits)} folds instead of {folds}"
    return None


def _members(cases: Sequence[str], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    if groups is None:
        return {case: [case] for case in cases}
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases):
        if case not in groups:
            raise UserError(f"case {case} has no group", where="groups", mend="name the group of every case")
        members[groups[case]].append(case)
    return members


def groups_by_regex(cases: Sequence[str], regex: str) -> dict[str, str]:
    r"""Group cases by what a regular expression finds in their identifiers.

    Args:
        cases: Case identifiers.
        regex: The group is its first parenthesis, or all that it matches: ``retina_(\d+)`` puts retina_01L and
            retina_01R together.

    Raises:
        UserError: If it is no regular expression, or finds nothing in some case.
    """
    mend = r"write one that finds the group in every case, such as (patient\d+)"
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise UserError(f"{regex!r} is no regular expression: {error}", where="--group-by", mend=mend) from None
    groups = {}
    for case in cases:
        match = pattern.search(case)
        group = match and (match[1] if pattern.groups else match[0])
        if not group:
            raise UserError(f"{regex!r} finds no group in case {case}", where="--group-by", mend=mend)
        groups[case] = group
    return groups


def groups_from_file(path: Path) -> dict[str, str]:
    """Read the group of each case: JSON ``{"case": "group", ...}``, or ``.csv`` with a line ``case,group`` each.

    Raises:
        UserError: If the file is missing or has another form.
    """
    mend = 'write {"case": "group", ...}, or a .csv file with case,group in each line'
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(read_text(path, mend).splitlines()) if row]
        if any(len(row) != 2 for row in rows):
            raise UserError("not every line has two columns", where=path, mend=mend)
        return _distinct([(case.strip(), group.strip()) for case, group in rows], path)
    content = _json(path, mend)
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=path, mend=mend)
    return {case: str(group) for case, group in content.items()}


def _distinct(rows: list[tuple[str, str]], path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for case, group in rows:
        if groups.setdefault(case, group) != group:
            raise UserError(f"case {case} is in the groups {groups[case]} and {group}", where=path, mend="keep one")
    return groups


def splits_from_file(path: Path) -> list[Split]:
    """Read the folds from JSON: ``[{"train": [...], "val": [...]}, ...]``, also with "validation" for "val".

    Raises:
        UserError: If the file is missing or has another form, or a case is trained and validated on in one fold.
    """
    mend = 'write [{"train": ["case", ...], "val": ["case", ...]}, ...], one entry per fold'
    content = _json(path, mend)
    if not isinstance(content, list) or not content:
        raise UserError("not a list of folds", where=path, mend=mend)
    splits = []
    for number, fold in enumerate(content):
        train, validation = _cases(fold, "train"), _cases(fold, "val", "validation")
        if not train or validation is None:
            raise UserError(f"fold {number} has no lists train and val", where=path, mend=mend)
        both = sorted(set(train) & set(validation))
        if both:
            raise UserError(
                f"fold {number} trains and validates on {', '.join(both[:3])}", where=path, mend="keep them apart"
            )
        splits.append((train, validation))
    return splits


def _cases(fold: Any, *keys: str) -> list[str] | None:
    """The list of cases under one of the keys; None if there is none."""
    for key in keys:
        cases = fold.get(key) if isinstance(fold, dict) else None
        if isinstance(cases, list) and all(isinstance(case, str) for case in cases):
            return cases
    return None


def _json(path: Path, mend: str) -> Any:
    text = read_text(path, mend)
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=path, mend=mend) from None


def read_text(path: Path, mend: str) -> str:
    """Read a file that the user wrote.

    Args:
        path: The file.
        mend: What belongs into it, for the message.

    Raises:
        UserError: If there is no such file, or it is no text.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=path, mend=mend)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("not a text file", where=path, mend=mend) from None
