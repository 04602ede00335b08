"""Says which labels of a predicted label map have a volume unlike those of the training cases: perhaps missed.

A volume is far outside where a training case has such a one in less than one of a thousand cases, all labels together,
as figures of images are (:mod:`seg_transfer.planning.unlike_training`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.geometry import Grid, affine_spacing
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.training_images import PRIOR_CASES, LabelVolume, TrainingImages
from seg_transfer.planning.unlike_training import limit_of, outside
from seg_transfer.util.memory_order import MemoryOrder, blocks

FEWEST_OTHERS = 4
"""Cases with a label that its volume is compared with, at least."""
NEARLY_ALL = 0.8
"""Share of the other cases in which something has to hold for a case to be an exception."""


def unlike_volumes(label_map: NDArray[np.integer], native: Grid, plan: Plan) -> tuple[str, ...]:
    """Describe which labels are missing, or far larger or smaller than in the training cases; empty if none is.

    Plans of earlier versions do not know the volumes, and objects are numbered anew in each image: nothing is compared.

    Args:
        label_map: ``(i, j, k)`` with the data set's values.
        native: Its grid.
        plan: The plan of the model that predicted it.
    """
    training, data = plan.training_images, plan.data
    if training is None or not training.labels or data.instances:
        return ()
    written = {region.writes for region in data.regions} or {label.value for label in data.labels}
    voxel_ml = math.prod(affine_spacing(native.affine)) / 1000
    voxels = _count(label_map, [label.value for label in data.labels[1:]])
    volumes = {
        label.name: count * voxel_ml
        for label, count in zip(data.labels[1:], voxels, strict=True)
        if label.value in written
    }
    return far_volumes(volumes, training)


def far_volumes(volumes: Mapping[str, float], training: TrainingImages) -> tuple[str, ...]:
    """As :func:`unlike_volumes`, of volumes that are known.

    Args:
        volumes: Label -> its volume in ml, of 2D images in pixels. Only labels of the training cases are looked at.
        training: The training cases.
    """
    return tuple(
        text
        for known in training.labels
        if known.name in volumes and known.cases >= FEWEST_OTHERS
        for text in _unlike(volumes[known.name], known, training)
    )


def _count(label_map: NDArray[np.integer], values: Sequence[int]) -> list[int]:
    """Number of voxels of each value."""
    counts = np.zeros(len(values), np.int64)
    for _, (block,) in blocks(MemoryOrder.of(label_map).view(label_map)):
        counts += [np.count_nonzero(block == value) for value in values]
    return counts.tolist()


def _unlike(ml: float, known: LabelVolume, training: TrainingImages) -> Iterator[str]:
    """In what one label is unlike the training cases."""
    if not ml:
        if known.cases >= NEARLY_ALL * training.cases:
            yield f"{known.name} is predicted nowhere; {known.cases} of {training.cases} training cases hold it"
    elif known.volume is not None:
        limit = limit_of(known.cases - 1 + PRIOR_CASES, len(training.labels))
        if text := outside(f"{known.name}: predicted volume in ml", math.log(ml), known.volume, limit, math.exp):
            yield text
