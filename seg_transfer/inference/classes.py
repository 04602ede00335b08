"""Logits to probabilities, and probabilities to classes.

Only this module distinguishes labels, which exclude each other, from regions, which may overlap. Windows, mirroring,
folds and resampling average probabilities in between.
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
INTEGERS = (np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.int64)


def activate(logits: Tensor, data: DataPlan) -> Tensor:
    """Probabilities of logits ``(batch, output, ...)``: softmax for labels, sigmoid for regions."""
    return logits.sigmoid() if data.regions else logits.softmax(dim=1)


def decide(probabilities: NDArray[np.floating], data: DataPlan) -> NDArray[np.unsignedinteger]:
    """Class of every voxel, independent of other voxels.

    The label with the highest probability wins; ties go to the first. Regions with a probability above 0.5 are written
    one over the other in order of precedence, each with its label.

    Args:
        probabilities: ``(output, ...)``, in the order of ``data.outputs``.
        data: The plan's labels and regions.

    Returns:
        Indices ``(...)`` into ``data.labels``, in the smallest unsigned type.
    """
    winner = np.zeros(probabilities.shape[1:], class_dtype(len(data.labels)))
    if data.regions:
        values = [label.value for label in data.labels]
        for probability, region in zip(probabilities, data.regions, strict=True):
            winner[probability > REGION_THRESHOLD] = values.index(region.writes)
        return winner
    best = probabilities[0].copy()
    # class by class is several times as fast as argmax over the first axis, which strides through memory
    for index in range(1, len(probabilities)):
        np.copyto(winner, index, where=probabilities[index] > best, casting="unsafe")
        np.maximum(best, probabilities[index], out=best)
    return winner


def label_values(data: DataPlan) -> NDArray[np.integer]:
    """Values of the labels in label maps, by index of the class, in the first of the usual types that has them all."""
    values = [label.value for label in data.labels]
    limits = [(kind, np.iinfo(kind)) for kind in INTEGERS]
    return np.array(values, next(kind for kind, of in limits if of.min <= min(values) and max(values) <= of.max))
