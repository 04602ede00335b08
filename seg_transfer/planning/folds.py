"""The folds of a plan: assigned so that nothing leaks, or read from the user's file and checked for leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.duplicates import listing
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
from seg_transfer.options.plan_options import PlanOptions
from seg_transfer.planning.fingerprint import Fingerprint


@dataclass(frozen=True)
class FoldFiles:
    """What the user's files and expressions say about folds.

    Attributes:
        groups: Case -> group; None where every case is one of its own.
        splits: Training and validation cases of each fold; None where folds are to be assigned.
    """

    groups: Mapping[str, str] | None = None
    splits: Sequence[Split] | None = None


@dataclass(frozen=True)
class FoldAssignment:
    """Which cases each fold trains and validates on.

    Attributes:
        splits: The folds.
        groups: Case -> group of cases that are kept together; None where every case is one of its own.
        notes: What the user should know about them.
    """

    splits: tuple[Split, ...]
    groups: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()


def read_fold_files(options: PlanOptions, cases: Sequence[str]) -> FoldFiles:
    """Read ``--groups``, ``--group-by`` and ``--splits``, and check that they fit the cases; before long measuring.

    Args:
        options: The user's.
        cases: Every case, those with problems included.

    Raises:
        UserError: If a file or expression is wrong, names a case that is not there, or leaves one out.
    """
    splits = None if options.splits is None else splits_from_file(options.splits)
    unknown = sorted({case for split in splits or () for case in (*split.train, *split.validation)} - set(cases))
    if unknown:
        hint = "name only cases of the data set (those chosen with --cases, if that is given)"
        raise UserError(f"not among the cases: {', '.join(unknown[:5])}", where=options.splits, hint=hint)
    return FoldFiles(groups=_groups(options, cases), splits=splits)


def assign_folds(options: PlanOptions, files: FoldFiles, fingerprint: Fingerprint) -> FoldAssignment:
    """Assign the measured cases to folds.

    Cases that hold the same image share a fold, like those of a group, and each label is spread over the folds. Folds
    from a file are taken as they are; a group or an image on both sides of one is noted.

    Args:
        options: How many folds, and the random seed.
        files: What the user's files say.
        fingerprint: Of the cases without problems, which alone are assigned.

    Raises:
        UserError: If a fold of a file has no case left to train on.
    """
    whole = [case.id for case in fingerprint.cases]
    labels = fingerprint.held_labels()
    duplicates = fingerprint.duplicates()
    together = [same.cases for same in duplicates]
    groups = None if files.groups is None else {case: files.groups[case] for case in whole}
    joined = join_groups(whole, groups, together)
    if files.splits is None or options.splits is None:
        notes = [f"{same}: kept in one fold" for same in duplicates]
        assigned = make_splits(whole, folds=options.folds, seed=options.seed, groups=joined, labels=labels)
        note = splits_note(assigned, options.folds)
        notes += [note] if note else []
    else:
        notes = [str(same) for same in duplicates]
        assigned = _without_broken(files.splits, set(whole), options.splits)
        notes += [_leak_note(leak, options.splits, "the same image") for leak in leaks(assigned, together)]
        for name, inside in sorted(_members(groups or {}).items()):
            notes += [_leak_note(leak, options.splits, f"one group, {name}") for leak in leaks(assigned, [inside])]
    notes += _unlearned(assigned, labels)
    return FoldAssignment(tuple(assigned), joined, tuple(notes))


def _groups(options: PlanOptions, cases: Sequence[str]) -> Mapping[str, str] | None:
    if options.group_by is not None:
        return groups_by_regex(cases, options.group_by)
    if options.groups is None:
        return None
    groups = groups_from_file(options.groups)
    if missing := [case for case in cases if case not in groups]:
        what = f"no group for {', '.join(missing[:5])}"
        raise UserError(what, where=options.groups, hint="name that of every case")
    return groups


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for case, name in groups.items():
        members.setdefault(name, []).append(case)
    return members


def _without_broken(splits: Sequence[Split], whole: set[str], path: Path) -> list[Split]:
    """The folds of a file, without cases that have problems."""
    kept = []
    for fold, split in enumerate(splits):
        train = tuple(case for case in split.train if case in whole)
        if not train:
            what = f"fold {fold} has no case left to train on: all that it names are broken"
            raise UserError(what, where=path, hint="fix these cases' files, or write other folds")
        kept.append(Split(train=train, validation=tuple(case for case in split.validation if case in whole)))
    return kept


def _leak_note(leak: Leak, path: Path, what: str) -> str:
    return (
        f"{path}: fold {leak.fold} trains on {listing(leak.train)} and validates on {listing(leak.validation)}: "
        f"{what}, so its scores are too good"
    )


def _unlearned(assigned: Sequence[Split], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Folds that hold out every case of some label."""
    every = {label for held in labels.values() for label in held}
    missing = [
        (fold, sorted(every - {label for case in split.train for label in labels[case]}))
        for fold, split in enumerate(assigned)
    ]
    return [f"fold {fold} trains on no case with {listing(tuple(names))}" for fold, names in missing if names]
