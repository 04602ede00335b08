"""Labelled voxels of several cases, and which of the cases are kept together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_transfer.errors import UserError
from seg_transfer.evidence.classifiers import Voxels
from seg_transfer.evidence.samples import PER_LABEL, Samples, sample_voxels
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store

MORE = "plan with more cases"


class TooFewError(UserError):
    """Cases do not suffice to fit a classifier to some of them and score it on others."""


@dataclass(frozen=True)
class Drawn:
    """Voxels of cases.

    Attributes:
        samples: Of each case.
        voxels: Class and case of all of them, in that order.
        weights: Voxels that each stands for, ``(n,)``.
    """

    samples: list[Samples]
    voxels: Voxels
    weights: NDArray[np.float64]


def case_groups(plan: Plan) -> dict[str, int]:
    """Case -> number of the group of cases that it is not torn apart from.

    These are the cases that one fold of the plan holds out, since folds keep patients together; a case that no fold
    holds out is by itself.
    """
    held = {case: fold for fold, split in enumerate(plan.recipe.splits) for case in split.validation}
    return {case: held.get(case, len(plan.recipe.splits) + index) for index, case in enumerate(plan.data.cases)}


def choose_cases(plan: Plan, count: int, seed: int) -> list[str]:
    """Cases to look at: as many from each fold's held-out cases as possible, so that folds hold out similar shares.

    Args:
        plan: Its folds.
        count: How many at most.
        seed: Decides which.

    Raises:
        TooFewError: If one fold holds out all of them.
    """
    groups = case_groups(plan)
    if len(set(groups.values())) < 2:
        what = "classifiers are fitted to some cases and scored on others, held out by different folds: two are needed"
        raise TooFewError(what, where="--cases", hint=MORE)
    draw = np.random.default_rng(seed)
    shuffled = [plan.data.cases[index] for index in draw.permutation(len(plan.data.cases))]
    rank: dict[str, int] = {}
    for group in set(groups.values()):
        for position, case in enumerate(case for case in shuffled if groups[case] == group):
            rank[case] = position
    return sorted(sorted(shuffled, key=lambda case: rank[case])[:count])


def draw_voxels(
    plan: Plan,
    store: Store,
    cases: Sequence[str],
    groups: Sequence[int],
    *,
    per_label: int,
    seed: int,
    slices_per_label: int | None = None,
) -> Drawn:
    """Draw voxels of some cases.

    Args:
        plan: Its labels.
        store: Holds the cases.
        cases: Their identifiers.
        groups: Group of each; groups are not torn apart.
        per_label: At most so many of each label and case, and never more than 300.
        seed: Decides which.
        slices_per_label: Of :func:`~seg_transfer.evidence.samples.sample_voxels`.

    Raises:
        TooFewError: If the cases that a classifier would be fitted to hold one label alone.
    """
    samples = [
        sample_voxels(
            store.case(case).label[:],
            not_annotated=plan.data.not_annotated,
            per_label=min(PER_LABEL, per_label),
            seed=seed + position,
            slices_per_label=slices_per_label,
        )
        for position, case in enumerate(cases)
    ]
    voxels = Voxels(
        classes=np.concatenate([each.classes for each in samples]),
        cases=np.repeat(np.arange(len(cases)), [len(each) for each in samples]),
        groups=np.array(groups),
        labels=len(plan.data.labels),
    )
    for train, _ in voxels.folds():
        if len(np.unique(voxels.classes[train])) < 2:
            what = "where some cases are held out, the others hold one label alone: nothing can be told apart"
            raise TooFewError(what, where="--cases", hint=MORE)
    return Drawn(samples, voxels, np.concatenate([each.weights for each in samples]))
