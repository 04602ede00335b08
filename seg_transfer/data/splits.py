"""Folds of a cross-validation: dealt by group and by the labels that cases hold, or read from a file."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from seg_transfer.errors import UserError
from seg_transfer.util.records import Part


class Split(Part):
    """One fold."""

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """Cases that belong together, on both sides of one fold."""

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
    """Deal the cases to folds of about equal size; every case is validated on exactly once.

    Groups are shuffled and then dealt, the largest first and among these the one with the rarest label; without groups
    every case is one of its own. Each goes where there is room for it, to the fold that has the smallest shares of the
    cases with its labels: iterative stratification (Sechidis et al., ECML PKDD 2011) for groups. Sizes come first, so
    folds of ungrouped cases differ by one case at most. :func:`splits_note` says what had to be done otherwise.

    Args:
        cases: Case identifiers; their order does not matter.
        folds: How many; as many as there are groups if those are fewer.
        seed: Of the shuffling.
        groups: Case -> group (a patient, say); cases of one group stay together.
        labels: Case -> labels that it holds; labels of every case change nothing.

    Returns:
        One per fold. A single group is trained and validated on alike.

    Raises:
        UserError: If there are no cases, fewer than 2 folds, or a case has no group.
    """
    if not cases:
        raise UserError("there are no cases to split")
    if folds < 2:
        raise UserError(f"{folds} fold(s) leave nothing to validate on", where="folds", hint="use 2 or more")
    members = _members(cases, groups)
    holders = Counter(label for case in cases for label in (labels or {}).get(case, ()))
    telling = {label: count for label, count in sorted(holders.items()) if count < len(cases)}
    held = {
        name: Counter(label for case in inside for label in (labels or {}).get(case, ()) if label in telling)
        for name, inside in members.items()
    }
    names = sorted(members)
    shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    dealt = [_Fold([], Counter()) for _ in range(min(folds, len(names)))]

    def rarity(name: str) -> int:
        return min((telling[label] for label in held[name]), default=len(cases))

    for name in sorted(shuffled, key=lambda name: (-len(members[name]), rarity(name))):
        share = {label: count / telling[label] for label, count in sorted(held[name].items())}
        fold = min(
            _with_room(dealt, len(members[name]), len(cases)),
            key=lambda fold: (sum(fold.held[label] * part for label, part in share.items()), len(fold.cases)),
        )
        fold.cases.extend(members[name])
        fold.held.update(held[name])
    if len(dealt) == 1:
        return [Split(train=tuple(sorted(cases)), validation=tuple(sorted(cases)))]
    return [
        Split(train=tuple(sorted(set(cases) - set(fold.cases))), validation=tuple(sorted(fold.cases))) for fold in dealt
    ]


@dataclass(frozen=True)
class _Fold:
    """Cases to validate on, and how many of them hold each label."""

    cases: list[str]
    held: Counter[str]


def _with_room(folds: list[_Fold], more: int, total: int) -> list[_Fold]:
    """Folds that stay within an equal share of all cases with so many more; the smallest ones where none does."""
    share, rest = divmod(total, len(folds))
    above = sum(len(fold.cases) > share for fold in folds)
    room = [fold for fold in folds if len(fold.cases) + more <= share + (above < rest)]
    smallest = min(len(fold.cases) for fold in folds)
    return room or [fold for fold in folds if len(fold.cases) == smallest]


def join_groups(
    cases: Sequence[str], groups: Mapping[str, str] | None, together: Iterable[Sequence[str]]
) -> Mapping[str, str] | None:
    """Merge the groups of cases that belong together for another reason, such as holding the same image.

    Args:
        cases: Case identifiers.
        groups: Case -> group; None: every case is a group of its own.
        together: Sets of cases.

    Returns:
        Case -> group, under the first of the merged names; ``groups`` itself if there is nothing to merge.
    """
    joined = dict(groups) if groups is not None else {case: case for case in cases}
    changed = False
    for inside in together:
        names = {joined[case] for case in inside}
        changed = changed or len(names) > 1
        first = min(names)
        joined = {case: first if group in names else group for case, group in joined.items()}
    return joined if changed else groups


def leaks(splits: Sequence[Split], together: Collection[Collection[str]]) -> list[Leak]:
    """Find cases that belong together but are trained on and validated on in the same fold.

    Args:
        splits: The folds.
        together: Sets of cases: groups, or identical images.
    """
    found = []
    for fold, split in enumerate(splits):
        for inside in map(set, together):
            learned, held_out = sorted(inside & set(split.train)), sorted(inside & set(split.validation))
            if learned and held_out:
                found.append(Leak(fold, tuple(learned), tuple(held_out)))
    return found


def splits_note(splits: Sequence[Split], folds: int) -> str | None:
    """What the user should know about splits for which ``folds`` folds were asked; None if all is as asked."""
    if len(splits) == 1 and splits[0].train == splits[0].validation:
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
            raise UserError(f"case {case} has no group", where="groups", hint="name the group of every case")
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
    hint = r"write one that finds the group in every case, such as (patient\d+)"
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise UserError(f"{regex!r} is no regular expression: {error}", where="--group-by", hint=hint) from None
    groups = {}
    for case in cases:
        match = pattern.search(case)
        group = match and (match[1] if pattern.groups else match[0])
        if not group:
            raise UserError(f"{regex!r} finds no group in case {case}", where="--group-by", hint=hint)
        groups[case] = group
    return groups


def groups_from_file(path: Path) -> dict[str, str]:
    """Read the group of each case: JSON ``{"case": "group", ...}``, or ``.csv`` with a line ``case,group`` each.

    Raises:
        UserError: If the file is missing or has another form.
    """
    hint = 'write {"case": "group", ...}, or a .csv file with case,group in each line'
    if path.suffix.lower() == ".csv":
        rows = [row for row in csv.reader(read_text(path, hint).splitlines()) if row]
        if any(len(row) != 2 for row in rows):
            raise UserError("not every line has two columns", where=path, hint=hint)
        return _distinct([(case.strip(), group.strip()) for case, group in rows], path)
    content = _json(path, hint)
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=path, hint=hint)
    return {case: str(group) for case, group in content.items()}


def _distinct(rows: list[tuple[str, str]], path: Path) -> dict[str, str]:
    groups: dict[str, str] = {}
    for case, group in rows:
        if groups.setdefault(case, group) != group:
            raise UserError(f"case {case} is in the groups {groups[case]} and {group}", where=path, hint="keep one")
    return groups


def splits_from_file(path: Path) -> list[Split]:
    """Read the folds from JSON: ``[{"train": [...], "val": [...]}, ...]``, also with "validation" for "val".

    Raises:
        UserError: If the file is missing or has another form, or a case is trained and validated on in one fold.
    """
    hint = 'write [{"train": ["case", ...], "val": ["case", ...]}, ...], one entry per fold'
    content = _json(path, hint)
    if not isinstance(content, list) or not content:
        raise UserError("not a list of folds", where=path, hint=hint)
    splits = []
    for number, fold in enumerate(content):
        train, validation = _cases(fold, "train"), _cases(fold, "val", "validation")
        if not train or validation is None:
            raise UserError(f"fold {number} has no lists train and val", where=path, hint=hint)
        both = sorted(set(train) & set(validation))
        if both:
            raise UserError(
                f"fold {number} trains and validates on {', '.join(both[:3])}", where=path, hint="keep them apart"
            )
        splits.append(Split(train=tuple(train), validation=tuple(validation)))
    return splits


def _cases(fold: Any, *keys: str) -> list[str] | None:
    """The list of cases under one of the keys; None if there is none."""
    for key in keys:
        cases = fold.get(key) if isinstance(fold, dict) else None
        if isinstance(cases, list) and all(isinstance(case, str) for case in cases):
            return cases
    return None


def _json(path: Path, hint: str) -> Any:
    text = read_text(path, hint)
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"not readable as JSON: {error}", where=path, hint=hint) from None


def read_text(path: Path, hint: str) -> str:
    """Read a file that the user wrote.

    Args:
        path: The file.
        hint: What belongs into it, for the message.

    Raises:
        UserError: If there is no such file, or it is no text.
    """
    if not path.is_file():
        raise UserError("there is no such file", where=path, hint=hint)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("not a text file", where=path, hint=hint) from None
