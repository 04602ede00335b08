"""The folds of a plan: assigned without leaks, or read from the user's file and checked for leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.duplicates import Duplicates, listing
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
from seg_transfer.options.plan_options import DatasetOptions, PlanOptions
from seg_transfer.planning.fingerprint import Fingerprint

MOST_NOTES = 2
"""Notes about identical images that planning tells."""


@dataclass(frozen=True)
class FoldFiles:
    """Groups and folds that the user gives.

    Attributes:
        groups: Case -> group; None without groups.
        splits: Training and validation cases of each fold; None where folds are to be assigned.
        where: File of the splits, for messages.
        source: Where the splits are from, for the plan's reason.
    """

    groups: Mapping[str, str] | None = None
    splits: Sequence[Split] | None = None
    where: Path | None = None
    source: str = "your own"


@dataclass(frozen=True)
class FoldAssignment:
    """Training and validation cases of each fold.

    Attributes:
        splits: The folds.
        groups: Case -> group of cases that share a fold; None without groups.
        notes: Warnings for the user.
        source: Where the folds are from; None where they were assigned here.
    """

    splits: tuple[Split, ...]
    groups: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    source: str | None = None


def read_fold_files(
    options: DatasetOptions, cases: Sequence[str], *, listed: Mapping[str, str] | None = None
) -> FoldFiles:
    """Read ``--groups``, ``--group-by`` and ``--splits``, and check them before the cases are measured.

    Args:
        options: Options that name groups and folds.
        cases: All cases, those with problems included.
        listed: Groups in the data set's own list of cases, used if the options name none.

    Raises:
        UserError: If a file or expression is wrong, names an unknown case, or gives a case no group.
    """
    splits = None if options.splits is None else splits_from_file(options.splits)
    check_cases(splits or (), cases, where=options.splits)
    return FoldFiles(groups=_groups(options, cases, listed), splits=splits, where=options.splits)


def check_cases(splits: Sequence[Split], cases: Sequence[str], *, where: Path | None) -> None:
    """Refuse folds that name a case which is not among ``cases``."""
    unknown = sorted({case for split in splits for case in (*split.train, *split.validation)} - set(cases))
    if unknown:
        hint = "name only cases of the data set (those chosen with --cases, if that is given)"
        raise UserError(f"not among the cases: {', '.join(unknown[:5])}", where=where, hint=hint)


def assign_folds(options: PlanOptions, files: FoldFiles, fingerprint: Fingerprint) -> FoldAssignment:
    """Assign the measured cases to folds.

    Cases with the same image share a fold, like those of a group, and each label is spread over the folds. Folds from a
    file are not changed; a group or an image on both sides of one is noted.

    Args:
        options: Planning options.
        files: Groups and folds that the user gives.
        fingerprint: Measurements of the cases without problems, which are the ones to assign.

    Raises:
        UserError: If a fold of a file has no case left to train on.
    """
    labels = fingerprint.held_labels()
    cases = list(labels)
    duplicates = fingerprint.duplicates()
    together = [same.cases for same in duplicates]
    groups = None if files.groups is None else {case: files.groups[case] for case in cases}
    joined = join_groups(cases, groups, together)
    if files.splits is None:
        notes = _first([f"{same}: they share a fold" for same in duplicates])
        assigned = make_splits(cases, folds=options.folds, seed=options.seed, groups=joined, labels=labels)
        note = splits_note(assigned, options.folds)
        notes += [note] if note else []
    else:
        notes = _first([str(same) for same in duplicates])
        assigned = _without_broken(files.splits, set(cases), files.where)
        notes += leak_notes(files.where, assigned, groups, duplicates)
    notes += _unlearned(assigned, labels)
    source = None if files.splits is None else files.source
    return FoldAssignment(tuple(assigned), joined, tuple(notes), source)


def _first(notes: list[str]) -> list[str]:
    """A few notes about identical images, and how many more there are, so that the plan stays on the screen."""
    more = len(notes) - MOST_NOTES
    return notes if more <= 0 else [*notes[:MOST_NOTES], f"{more} more such images: `segtl check` lists them"]


def leak_notes(
    path: Path | None, splits: Sequence[Split], groups: Mapping[str, str] | None, duplicates: Sequence[Duplicates]
) -> list[str]:
    """Describe each group, and each image, that is on both sides of a fold.

    Args:
        path: The file with the folds; None without one.
        splits: The folds.
        groups: Case -> group; None without groups.
        duplicates: Cases that hold the same image.
    """
    together = [same.cases for same in duplicates]
    notes = [_leak_note(leak, path, "the same image") for leak in leaks(splits, together)]
    for name, inside in sorted(_members(groups or {}).items()):
        notes += [_leak_note(leak, path, f"one group, {name}") for leak in leaks(splits, [inside])]
    return notes


def _groups(
    options: DatasetOptions, cases: Sequence[str], listed: Mapping[str, str] | None
) -> Mapping[str, str] | None:
    if options.group_by is not None:
        return groups_by_regex(cases, options.group_by)
    if options.groups is None:
        return listed
    groups = groups_from_file(options.groups)
    if missing := [case for case in cases if case not in groups]:
        what = f"no group for {', '.join(missing[:5])}"
        raise UserError(what, where=options.groups, hint="give the group of every case")
    return groups


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for case, name in groups.items():
        members.setdefault(name, []).append(case)
    return members


def _without_broken(splits: Sequence[Split], usable: set[str], path: Path | None) -> list[Split]:
    """The folds of a file, without cases that have problems."""
    usable_splits = []
    for fold, split in enumerate(splits):
        train = tuple(case for case in split.train if case in usable)
        if not train:
            what = f"fold {fold} has no training case left: all that it names have problems"
            raise UserError(what, where=path, hint="fix these cases' files, or change the folds")
        usable_splits.append(Split(train=train, validation=tuple(case for case in split.validation if case in usable)))
    return usable_splits


def _leak_note(leak: Leak, path: Path | None, what: str) -> str:
    where = "" if path is None else f"{path}: "
    return (
        f"{where}fold {leak.fold} trains on {listing(leak.train)} and validates on {listing(leak.validation)}: "
        f"{what}, so that its scores are too high"
    )


def _unlearned(assigned: Sequence[Split], labels: Mapping[str, Sequence[str]]) -> list[str]:
    """A note for each fold that trains on no case with some label."""
    names = {label for held in labels.values() for label in held}
    missing = [
        (fold, sorted(names - {label for case in split.train for label in labels[case]}))
        for fold, split in enumerate(assigned)
    ]
    return [f"fold {fold} trains on no case with {listing(tuple(absent))}" for fold, absent in missing if absent]
