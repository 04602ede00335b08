"""What a voxel is, from the scores of the network's outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.plan import DataPlan
from seg_transfer.preprocessing.resample import class_dtype

REGION_THRESHOLD = 0.5


def decide(scores: NDArray[np.floating], data: DataPlan) -> NDArray[np.unsignedinteger]:
    """Class indices from probabilities; each voxel by itself, so that a volume can be decided part by part.

    Labels exclude each other: the most probable one wins, of equal ones the first. Regions do not: each that is more
    probable than not is painted, in order of precedence, with the label that it writes.

    Args:
        scores: ``(output, ...)`` probabilities, in the order of ``data.outputs``.
        data: The plan's part on data.

    Returns:
        Class indices ``(...)`` of ``data.labels``, uint8 or (beyond 256 labels) uint16.
    """
    kind = class_dtype(len(data.labels))
    if not data.regions:
        return scores.argmax(axis=0).astype(kind)
    classes = np.zeros(scores.shape[1:], kind)
    values = [label.value for label in data.labels]
    for score, region in zip(scores, data.regions, strict=True):
        classes[score > REGION_THRESHOLD] = values.index(region.writes)
    return classes
