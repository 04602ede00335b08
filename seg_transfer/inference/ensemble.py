"""Several configurations that predict together: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.inference.predictor import Integers, Predictor
from seg_transfer.planning.plan import part_hash
from seg_transfer.preprocessing.transform import CaseTransform


class Ensemble(Predictor):
    """Predictors whose plans prepare images alike, so that their probabilities lie on one grid; each counts the same.

    Args:
        members: At least one.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        first = members[0]
        if len({part_hash(member.plan.data) for member in members}) > 1:
            raise ValueError("the members' plans prepare images differently")
        super().__init__(first.plan, first.networks, first.device)
        self.members = tuple(members)

    def labels(self, transform: CaseTransform, array: NDArray[np.float32], *, tta: bool = True) -> Integers:
        """The label map; all scores of the volume are in memory, since members' slabs differ."""
        return self.labels_of(transform, self.probabilities(array, tta=tta))

    def probabilities(self, array: NDArray[np.float32], *, tta: bool = True) -> NDArray[np.float32]:
        """Mean probabilities of the members, as :meth:`Predictor.probabilities` gives them."""
        return mean_probabilities([member.probabilities(array, tta=tta) for member in self.members])


def mean_probabilities(each: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean of arrays ``(class, slice, u, v)``; the first one is overwritten."""
    total = each[0]
    for other in each[1:]:
        total += other
    total /= len(each)
    return total
