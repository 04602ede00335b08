"""Folds of a cross-validation: assigned by group and by the labels in the cases, or read from a file."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from seg_transfer.data.naming import case_name
from seg_transfer.errors import UserError
from seg_transfer.util.records import Record
from seg_transfer.util.text_files import read_json, read_text


class Split(Record):
    """Training and validation cases of one fold."""

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """Cases that belong together, but are in training and validation of one fold."""

    fold: int
    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(
    cases: Sequence[str],
    *,
    folds: int = 5,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Collection[str]] | None = None,
) -> list[Split]:
    """Assign the cases to folds of about equal size; every case is validated on exactly once.

    Groups are shuffled and then assigned, the largest first and among these the one with the rarest label; without
    groups every case is its own group. Among the folds with room, each group goes to the one with the smallest shares
    of the cases with its labels: iterative stratification (Sechidis et al., ECML PKDD 2011) for groups. Sizes come
    first, so folds of ungrouped cases differ by at most one case. :func:`splits_note` describes exceptions.

    Args:
        cases: Case identifiers in any order.
        folds: Number of folds; at most one per group is made.
        seed: Random seed of the shuffling.
        groups: Case -> group, such as a patient; cases of one group stay together.
        labels: Case -> labels in it; labels that every case has change nothing.

    Returns:
        One split per fold. A single group is both training and validation.

    Raises:
        UserError: If there are no cases, fewer than 2 folds, or a case has no group.
    """
    if not cases:
        raise UserError("there are no cases to split")
    if folds < 2:
        raise UserError(f"{folds} fold(s) leave no case for validation", where="folds", hint="use 2 or more")
    members = _members(cases, groups)
    labels = labels or {}
    counts = Counter(label for case in cases for label in labels.get(case, ()))
    stratified = {label: count for label, count in sorted(counts.items()) if count < len(cases)}
    names = sorted(members)
    shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    assigned = [_ValidationCases([], Counter()) for _ in range(min(folds, len(names)))]

    def labels_of(name: str) -> Counter[str]:
        return Counter(label for case in members[name] for label in labels.get(case, ()) if label in stratified)

    def rarity(name: str) -> int:
        return min((stratified[label] for label in labels_of(name)), default=len(cases))

    for name in sorted(shuffled, key=lambda name: (-len(members[name]), rarity(name))):
        held = labels_of(name)
        shares = {label: count / stratified[label] for label, count in sorted(held.items())}
        fold = min(
            _with_room(assigned, len(members[name]), len(cases)),
            key=lambda fold: (sum(fold.labels[label] * share for label, share in shares.items()), len(fold.cases)),
        )
        fold.cases.extend(members[name])
        fold.labels.update(held)
    if len(assigned) == 1:
        return [Split(train=tuple(sorted(cases)), validation=tuple(sorted(cases)))]
    return [
        Split(train=tuple(sorted(set(cases) - set(fold.cases))), validation=tuple(sorted(fold.cases)))
        for fold in assigned
    ]


@dataclass(frozen=True)
class _ValidationCases:
    """Validation cases assigned to a fold so far, and label -> number of them that hold it."""

    cases: list[str]
    labels: Counter[str]


def _with_room(folds: list[_ValidationCases], added: int, total: int) -> list[_ValidationCases]:
    """Folds that stay within an equal share of all cases if ``added`` cases join; if none does, the smallest folds."""
    share, rest = divmod(total, len(folds))
    above = sum(len(fold.cases) > share for fold in folds)
    room = [fold for fold in folds if len(fold.cases) + added <= share + (above < rest)]
    smallest = min(len(fold.cases) for fold in folds)
    return room or [fold for fold in folds if len(fold.cases) == smallest]


def join_groups(
    cases: Sequence[str], groups: Mapping[str, str] | None, together: Iterable[Sequence[str]]
) -> Mapping[str, str] | None:
    """Merge the groups of cases that belong together for another reason, such as holding the same image.

    Args:
        cases: Case identifiers.
        groups: Case -> group; None: every case is its own group.
        together: Sets of cases.

    Returns:
        Case -> group; merged groups have the first of their names. ``groups`` itself if there is nothing to merge.
    """
    joined = dict(groups) if groups is not None else {case: case for case in cases}
    changed = False
    for members in together:
        names = {joined[case] for case in members}
        changed = changed or len(names) > 1
        first = min(names)
        joined = {case: first if group in names else group for case, group in joined.items()}
    return joined if changed else groups


def leaks(splits: Sequence[Split], together: Collection[Collection[str]]) -> list[Leak]:
    """Find cases that belong together but are in training and validation of the same fold.

    Args:
        splits: The folds.
        together: Sets of cases: groups, or identical images.
    """
    leaked = []
    for fold, split in enumerate(splits):
        for members in map(set, together):
            train, validation = sorted(members & set(split.train)), sorted(members & set(split.validation))
            if train and validation:
                leaked.append(Leak(fold, tuple(train), tuple(validation)))
    return leaked


def splits_note(splits: Sequence[Split], folds: int) -> str | None:
    """Warning about splits that differ from the ``folds`` requested folds; None if they do not."""
    if len(splits) == 1 and splits[0].train == splits[0].validation:
        return "there is one case (or group) only: it is both training and validation, so its scores are not meaningful"
    if len(splits) < folds:
        return f"there are {len(splits)} cases (or groups) only: {len(splits)} folds instead of {folds}"
    return None


def _members(cases: Sequence[str], groups: Mapping[str, str] | None) -> dict[str, list[str]]:
    if groups is None:
        return {case: [case] for case in cases}
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases):
        if case not in groups:
            raise UserError(f"case {case} has no group", where="groups", hint="name the group of every case")
        members[groups[case]].append(case)
    return members


def groups_by_regex(cases: Sequence[str], regex: str) -> dict[str, str]:
    r"""Group cases by the match of a regular expression in their identifiers.

    Args:
        cases: Case identifiers.
        regex: Its first parenthesis, else the whole match, is the group: ``retina_(\d+)`` puts retina_01L and
            retina_01R together.

    Raises:
        UserError: If ``regex`` is no regular expression, or does not match some case.
    """
    hint = r"write one that finds the group in every case, such as (patient\d+)"
    try:
        pattern = re.compile(regex)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{regex[:60]!r} is no regular expression: {error}", where="--group-by", hint=hint) from None
    groups = {}
    for case in cases:
        match = pattern.search(case)
        group = match and (match[1] if pattern.groups else match[0])
        if not group:
            raise UserError(f"{regex!r} finds no group in case {case}", where="--group-by", hint=hint)
        groups[case] = group
    return groups


_GROUP_IN_NAME = (r"^(.*\d)[A-Za-z]+$", r"^(.*\d.*)[_.-][^_.-]*$")
"""Expressions that find a patient with a number in names such as ``retina_01L`` and ``patient012_scan2``."""
LARGEST_PATIENT = 20
"""Cases of one patient: names of more share something else, such as the centre."""


def suspected_groups(cases: Sequence[str]) -> str | None:
    """An expression by which the cases' names look like several images of one patient; None without one.

    Args:
        cases: Case identifiers.
    """
    for regex in _GROUP_IN_NAME:
        found = [re.search(regex, case) for case in cases]
        sizes = Counter(match[1] for match in found if match)
        if all(found) and len(sizes) > 1 and 1 < max(sizes.values()) <= LARGEST_PATIENT:
            return regex
    return None


def groups_from_file(path: Path) -> dict[str, str]:
    """Read the group of each case: JSON ``{"case": "group", ...}``, or ``.csv`` with a line ``case,group`` each.

    Raises:
        UserError: If the file is missing or has another form.
    """
    hint = 'write {"case": "group", ...}, or a .csv file with case,group in each line'
    if path.suffix.lower() == ".csv":
        try:
            rows = [row for row in csv.reader(read_text(path, hint).splitlines(), strict=True) if row]
        except csv.Error as error:
            raise UserError(f"not readable as CSV: {error}", where=path, hint=hint) from None
        if any(len(row) != 2 for row in rows):
            raise UserError("not every line has two columns", where=path, hint=hint)
        return _distinct([(case_name(case.strip()), group.strip()) for case, group in rows], path)
    content = read_json(path, hint)
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=path, hint=hint)
    return {case_name(case): str(group) for case, group in content.items()}


def _distinct(rows: list[tuple[str, str]], path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for case, group in rows:
        if groups.setdefault(case, group) != group:
            raise UserError(f"case {case} is in the groups {groups[case]} and {group}", where=path, hint="keep one")
    return groups


def splits_from_file(path: Path) -> list[Split]:
    """Read the folds from JSON: ``[{"train": [...], "val": [...]}, ...]``, also with "validation" for "val".

    Raises:
        UserError: If the file is missing or has another form, or a case is in training and validation of one fold.
    """
    hint = 'write [{"train": ["case", ...], "val": ["case", ...]}, ...], one entry per fold'
    content = read_json(path, hint)
    if not isinstance(content, list) or not content:
        raise UserError("not a list of folds", where=path, hint=hint)
    splits = []
    for number, fold in enumerate(content):
        train, validation = _cases(fold, "train"), _cases(fold, "val", "validation")
        if not train or validation is None:
            raise UserError(f"fold {number} has no lists train and val", where=path, hint=hint)
        for name, cases in (("train", train), ("val", validation)):
            if repeated := [case for case, count in Counter(cases).items() if count > 1]:
                what = f"fold {number} names {repeated[0]} {cases.count(repeated[0])} times in {name}"
                raise UserError(what, where=path, hint="name each case once")
        if both := sorted(set(train) & set(validation)):
            what = f"fold {number} trains and validates on {', '.join(both[:3])}"
            raise UserError(what, where=path, hint="keep them apart")
        splits.append(Split(train=tuple(train), validation=tuple(validation)))
    return splits


def _cases(fold: Any, *keys: str) -> list[str] | None:
    """The list of cases under one of the keys; None if there is none."""
    for key in keys:
        cases = fold.get(key) if isinstance(fold, dict) else None
        if isinstance(cases, list) and all(isinstance(case, str) for case in cases):
            return [case_name(case) for case in cases]
    return None
