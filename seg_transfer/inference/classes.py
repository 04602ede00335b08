"""From what the network puts out to scores, and from scores to classes: the one place that knows how outputs compete.

Everything between (windows, mirroring, folds, resampling) only averages scores, whatever they mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.resample import class_dtype

if TYPE_CHECKING:
    from torch import Tensor

REGION_THRESHOLD = 0.5


def activate(logits: Tensor, data: DataPlan) -> Tensor:
    """Scores from 0 to 1 of the network's logits ``(batch, output, ...)``.

    Labels exclude each other: probabilities that add up to 1. Regions do not: each has a probability of its own.
    """
    return logits.sigmoid() if data.regions else logits.softmax(dim=1)


def decide(scores: NDArray[np.floating], data: DataPlan) -> NDArray[np.unsignedinteger]:
    """Class of every voxel; each is decided by itself, so that a volume can be decided part by part.

    Of labels the one with the highest score wins, of equal ones the first. Regions that are more probable than not are
    painted one after the other in order of precedence, each with the label that it writes.

    Args:
        scores: ``(output, ...)``, in the order of ``data.outputs``.
        data: Says what the outputs stand for.

    Returns:
        Class indices ``(...)`` of ``data.labels``, in the smallest type that holds all of them.
    """
    winner = np.zeros(scores.shape[1:], class_dtype(len(data.labels)))
    if data.regions:
        values = [label.value for label in data.labels]
        for score, region in zip(scores, data.regions, strict=True):
            winner[score > REGION_THRESHOLD] = values.index(region.writes)
        return winner
    best = scores[0].copy()
    # argmax over the first axis walks memory against its order: class by class is several times as fast.
    for index in range(1, len(scores)):
        np.copyto(winner, index, where=scores[index] > best, casting="unsafe")
        np.maximum(best, scores[index], out=best)
    return winner
