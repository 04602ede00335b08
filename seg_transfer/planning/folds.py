"""The folds of a plan: dealt so that nothing leaks, or read from the user's file and checked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.duplicates import listing
from seg_transfer.data.splits import (
    Leak,
    groups_by_regex,
    groups_from_file,
    join_groups,
    leaks,
    make_splits,
    splits_from_file,
    splits_note,
)
from seg_transfer.data.splits import Split as CaseLists
from seg_transfer.errors import UserError
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Split


@dataclass(frozen=True)
class FoldWishes:
    """How the user wants the cases dealt.

    Attributes:
        folds: How many.
        group_by: Regular expression on case identifiers; cases with the same match belong together.
        groups: File with the group of each case, in place of ``group_by``.
        splits: JSON file with the folds themselves; groups then say only what must not straddle them.
        seed: Of the dealing.
    """

    folds: int = 5
    group_by: str | None = None
    groups: Path | None = None
    splits: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Dealt:
    """The folds, what the user should know about them, and the group of each case, if they have some."""

    splits: tuple[Split, ...]
    notes: tuple[str, ...]
    groups: Mapping[str, str] | None


def deal(wishes: FoldWishes, cases: Sequence[str], fingerprint: Fingerprint | None = None) -> Dealt:
    """Deal cases to folds.

    Cases that hold the same image share a fold, like those of a group, and each label is spread over the folds. Folds
    from a file are taken as they are; a group or an image on both sides of one is said.

    Args:
        wishes: The user's.
        cases: Every case that a file may name.
        fingerprint: Of the cases that are not broken, which alone are dealt; None before they are measured, which
            serves to find wrong wishes early.

    Raises:
        UserError: If a file or expression is wrong, or names a case that is not there.
    """
    whole = list(cases) if fingerprint is None else [case.id for case in fingerprint.cases]
    labels = None if fingerprint is None else fingerprint.held_labels()
    duplicates = [] if fingerprint is None else fingerprint.duplicates()
    together = [same.cases for same in duplicates]
    groups = _groups(wishes, whole)
    joined = join_groups(whole, groups, together)
    if wishes.splits is None:
        notes = [f"{same}: kept in one fold" for same in duplicates]
        dealt = make_splits(whole, folds=wishes.folds, seed=wishes.seed, groups=joined, labels=labels)
        note = splits_note(dealt, wishes.folds)
        notes += [note] if note else []
    else:
        notes = [str(same) for same in duplicates]
        dealt = _from_file(wishes.splits, cases, set(whole))
        notes += [_leak_note(leak, wishes.splits, "the same image") for leak in leaks(dealt, together)]
        for name, inside in sorted(_members(groups or {}).items()):
            notes += [_leak_note(leak, wishes.splits, f"one group, {name}") for leak in leaks(dealt, [inside])]
    if labels is not None:
        notes += _unlearned(dealt, labels)
    splits = tuple(Split(train=tuple(train), validation=tuple(held_out)) for train, held_out in dealt)
    return Dealt(splits, tuple(notes), joined)


def _groups(wishes: FoldWishes, cases: Sequence[str]) -> Mapping[str, str] | None:
    if wishes.group_by is not None:
        return groups_by_regex(cases, wishes.group_by)
    if wishes.groups is None:
        return None
    groups = groups_from_file(wishes.groups)
    if missing := [case for case in cases if case not in groups]:
        what = f"no group for {', '.join(missing[:5])}"
        raise UserError(what, where=wishes.groups, hint="name that of every case")
    return {case: groups[case] for case in cases}


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for case, name in groups.items():
        members.setdefault(name, []).append(case)
    return members


def _from_file(path: Path, cases: Sequence[str], whole: set[str]) -> list[CaseLists]:
    """The folds of a file, without broken cases."""
    dealt = splits_from_file(path)
    unknown = sorted({case for split in dealt for part in split for case in part} - set(cases))
    if unknown:
        hint = "name only cases of the data set (those chosen with --cases, if that is given)"
        raise UserError(f"not among the cases: {', '.join(unknown[:5])}", where=path, hint=hint)
    kept = [([c for c in train if c in whole], [c for c in held_out if c in whole]) for train, held_out in dealt]
    for fold, (train, _) in enumerate(kept):
        if not train:
            what = f"fold {fold} has no case left to train on: all that it names are broken"
            raise UserError(what, where=path, hint="fix these cases' files, or deal the cases anew")
    return kept


def _leak_note(leak: Leak, path: Path, what: str) -> str:
    return (
        f"{path}: fold {leak.fold} trains on {listing(leak.train)} and validates on {listing(leak.validation)}: "
        f"{what}, so its scores are too good"
    )


def _unlearned(dealt: Sequence[CaseLists], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Folds that hold out every case of some label."""
    every = {label for held in labels.values() for label in held}
    missing = [
        (fold, sorted(every - {label for case in train for label in labels[case]}))
        for fold, (train, _) in enumerate(dealt)
    ]
    return [f"fold {fold} trains on no case with {listing(tuple(names))}" for fold, names in missing if names]
