"""From what the network puts out to scores, and from scores to classes: the one place that knows how outputs compete.

Everything between (windows, mirroring, folds, resampling) only averages scores, whatever they mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.plan import DataPlan
from seg_transfer.preprocessing.resample import class_dtype

if TYPE_CHECKING:
    from torch import Tensor


def output_count(data: DataPlan) -> int:
    """How many values the network puts out per voxel: one per label, background included."""
    return len(data.labels)


def activate(logits: Tensor, data: DataPlan) -> Tensor:
    """Scores of the network's logits ``(batch, output, ...)``, from 0 to 1: probabilities that add up to 1."""
    return logits.softmax(dim=1)


def decide(scores: NDArray[np.floating], data: DataPlan) -> NDArray[np.unsignedinteger]:
    """Class of every voxel: the one with the highest score; of equal ones the first.

    Args:
        scores: ``(output, ...)``.
        data: Says what the outputs stand for.

    Returns:
        Class indices ``(...)`` in the smallest type that holds all of them.
    """
    best = scores[0].copy()
    winner = np.zeros(best.shape, class_dtype(len(data.labels)))
    # argmax over the first axis walks memory against its order: class by class is several times as fast.
    for index in range(1, len(scores)):
        np.copyto(winner, index, where=scores[index] > best, casting="unsafe")
        np.maximum(best, scores[index], out=best)
    return winner
