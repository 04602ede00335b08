"""Sampled voxels of several cases, and the groups of cases that stay in one fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_transfer.errors import UserError
from seg_transfer.evidence.classifiers import Voxels
from seg_transfer.evidence.features import window_cells
from seg_transfer.evidence.samples import PER_LABEL, Samples, sample_in_parts, sample_voxels
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store

HINT = "plan with more cases"


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

    The cases that one fold of the plan holds out are a group, since folds keep patients together. A case that no fold
    holds out is a group by itself.
    """
    fold_of = {case: fold for fold, split in enumerate(plan.recipe.splits) for case in split.validation}
    return {case: fold_of.get(case, len(plan.recipe.splits) + index) for index, case in enumerate(plan.data.cases)}


def choose_cases(plan: Plan, count: int, seed: int) -> list[str]:
    """Choose cases, as evenly as possible from the held-out cases of each fold, so that folds have similar sizes.

    Args:
        plan: The plan, whose folds are used.
        count: Largest number of cases.
        seed: Random seed.

    Raises:
        TooFewError: If one fold holds out all cases.
    """
    groups = case_groups(plan)
    if len(set(groups.values())) < 2:
        what = "one fold holds out all cases: classifiers need cases that are held out by different folds"
        raise TooFewError(what, where="--cases", hint=HINT)
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
    *,
    per_label: int,
    seed: int,
    parts_per_label: int | None = None,
) -> CaseSamples:
    """Sample voxels of some cases.

    Cases are grouped as :func:`case_groups` says. If all of them are in one group, as the training cases of a plan with
    two folds are, each is a group by itself.

    Args:
        plan: The plan, for its labels and folds.
        store: The preprocessed cases.
        cases: Identifiers of the cases.
        per_label: Largest number of voxels of each label and case; never more than 300.
        seed: Random seed.
        parts_per_label: Number of windows that an encoder reads for each label, of whole slices in 2D and 2.5D
            (:func:`~seg_transfer.evidence.samples.sample_in_parts`); None: any number.

    Raises:
        TooFewError: If the cases outside some fold have a single label.
    """
    samples = [
        _sample(plan, store.case(case).label[:], min(PER_LABEL, per_label), parts_per_label, seed + position)
        for position, case in enumerate(cases)
    ]
    group_of = case_groups(plan)
    groups = np.array([group_of[case] for case in cases])
    voxels = Voxels(
        classes=np.concatenate([of_case.classes for of_case in samples]),
        cases=np.repeat(np.arange(len(cases)), [len(of_case) for of_case in samples]),
        groups=groups if len(np.unique(groups)) > 1 else np.arange(len(cases)),
        labels=len(plan.data.labels),
    )
    for train, _ in voxels.folds():
        if len(np.unique(voxels.classes[train])) < 2:
            what = "with the cases of a fold held out, the others have a single label: a classifier needs two"
            raise TooFewError(what, where="--cases", hint=HINT)
    return CaseSamples(samples, voxels, np.concatenate([of_case.weights for of_case in samples]))


def _sample(
    plan: Plan, label: NDArray[np.unsignedinteger], per_label: int, parts_per_label: int | None, seed: int
) -> Samples:
    unknown = plan.data.not_annotated
    if parts_per_label is None:
        return sample_voxels(label, not_annotated=unknown, per_label=per_label, seed=seed)
    slices, *plane = label.shape
    window = plan.model.patch if plan.model.configuration == "3d" else (1, *plane)
    parts = window_cells((slices, *plane), window)
    return sample_in_parts(label, parts, parts_per_label, not_annotated=unknown, per_label=per_label, seed=seed)
