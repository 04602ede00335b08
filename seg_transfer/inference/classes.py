"""From a network's logits to probabilities, and from probabilities to classes.

Only this module distinguishes labels, which exclude each other, from regions, which overlap. Everything between the two
steps (windows, mirroring, folds, resampling) averages probabilities.
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
    """Probabilities of the network's logits ``(batch, output, ...)``.

    Labels exclude each other: their probabilities add up to 1. Regions do not: each has a probability of its own.
    """
    return logits.sigmoid() if data.regions else logits.softmax(dim=1)


def decide(probabilities: NDArray[np.floating], data: DataPlan) -> NDArray[np.unsignedinteger]:
    """Class of every voxel, independent of other voxels, so that a volume can be decided part by part.

    The label with the highest probability wins; of equal ones the first. Regions with a probability above 0.5 are
    painted one after the other in order of precedence, each with the label that it writes.

    Args:
        probabilities: ``(output, ...)``, in the order of ``data.outputs``.
        data: The labels or regions of the outputs.

    Returns:
        Class indices ``(...)`` of ``data.labels``, in the smallest type that holds all of them.
    """
    winner = np.zeros(probabilities.shape[1:], class_dtype(len(data.labels)))
    if data.regions:
        values = [label.value for label in data.labels]
        for probability, region in zip(probabilities, data.regions, strict=True):
            winner[probability > REGION_THRESHOLD] = values.index(region.writes)
        return winner
    best = probabilities[0].copy()
    # argmax over the first axis strides through memory: class by class is several times as fast.
    for index in range(1, len(probabilities)):
        np.copyto(winner, index, where=probabilities[index] > best, casting="unsafe")
        np.maximum(best, probabilities[index], out=best)
    return winner
