"""Sampled voxels of several cases, and the groups of cases that stay in one fold."""

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
    """There are too few cases to fit a classifier to some of them and score it on others."""


@dataclass(frozen=True)
class CaseSamples:
    """Sampled voxels of several cases.

    Attributes:
        samples: The samples of each case.
        voxels: Class and case of all voxels, in the order of the cases.
        weights: Number of voxels that each represents, ``(n,)``.
    """

    samples: list[Samples]
    voxels: Voxels
    weights: NDArray[np.float64]


def case_groups(plan: Plan) -> dict[str, int]:
    """Case -> number of its group; the cases of a group stay in one fold.

    A group are the cases that one fold of the plan holds out, since folds keep patients together. A case that no fold
    holds out is a group by itself.
    """
    held = {case: fold for fold, split in enumerate(plan.recipe.splits) for case in split.validation}
    return {case: held.get(case, len(plan.recipe.splits) + index) for index, case in enumerate(plan.data.cases)}


def choose_cases(plan: Plan, count: int, seed: int) -> list[str]:
    """Choose cases, as evenly as possible from the held-out cases of each fold, so that folds have similar sizes.

    Args:
        plan: The plan, whose folds are used.
        count: At most so many cases.
        seed: Random seed.

    Raises:
        TooFewError: If one fold holds out all cases.
    """
    groups = case_groups(plan)
    if len(set(groups.values())) < 2:
        what = "one fold holds out all cases: classifiers need cases that are held out by different folds"
        raise TooFewError(what, where="--cases", hint=MORE)
    generator = np.random.default_rng(seed)
    shuffled = [plan.data.cases[index] for index in generator.permutation(len(plan.data.cases))]
    rank: dict[str, int] = {}
    for group in set(groups.values()):
        for position, case in enumerate(case for case in shuffled if groups[case] == group):
            rank[case] = position
    return sorted(sorted(shuffled, key=lambda case: rank[case])[:count])


def sample_cases(
    plan: Plan,
    store: Store,
    cases: Sequence[str],
    groups: Sequence[int],
    *,
    per_label: int,
    seed: int,
    slices_per_label: int | None = None,
) -> CaseSamples:
    """Sample voxels of some cases.

    Args:
        plan: The plan, whose labels are used.
        store: The preprocessed cases.
        cases: Identifiers of the cases.
        groups: Group of each case; the cases of a group stay in one fold.
        per_label: At most so many voxels of each label and case, and never more than 300.
        seed: Random seed.
        slices_per_label: Of :func:`~seg_transfer.evidence.samples.sample_voxels`.

    Raises:
        TooFewError: If the cases outside some fold have a single label.
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
            what = "with the cases of a fold held out, the others have a single label: a classifier needs two"
            raise TooFewError(what, where="--cases", hint=MORE)
    return CaseSamples(samples, voxels, np.concatenate([each.weights for each in samples]))
