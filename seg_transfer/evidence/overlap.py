"""Dice of several segmentations of the same cases, accumulated box by box."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util.statistics import dice, mean_of_defined


class Overlaps:
    """Counts voxels of predictions and reference per label or region, on the network's grid.

    Args:
        data: The plan's data part, for the labels or regions.
        segmentations: Number of segmentations.
    """

    def __init__(self, data: DataPlan, segmentations: int) -> None:
        index = {label.value: position for position, label in enumerate(data.labels)}
        self.members = {name: [index[value] for value in values] for name, values in data.scored.items()}
        self.not_annotated, self.segmentations = data.not_annotated, segmentations
        self._cases: list[NDArray[np.int64]] = []

    def begin_case(self) -> None:
        """Start the counts of the next case."""
        self._cases.append(np.zeros((self.segmentations, len(self.members), 3), np.int64))

    def add(self, segmentation: int, predicted: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Count the voxels of a box of the current case; those without annotation are left out.

        Args:
            segmentation: Index of the segmentation.
            predicted: Class indices.
            label: Class indices of the same shape.
        """
        if self.not_annotated is not None:
            annotated = label != self.not_annotated
            predicted, label = predicted[annotated], label[annotated]
        for counts, classes in zip(self._cases[-1][segmentation], self.members.values(), strict=True):
            in_predicted, in_label = np.isin(predicted, classes), np.isin(label, classes)
            counts += ((in_predicted & in_label).sum(), in_predicted.sum(), in_label.sum())

    def mean_dice(self, segmentation: int) -> dict[str, float]:
        """Label or region -> mean Dice over the cases where it is predicted or in the reference; nan if in none."""
        return {
            name: mean_of_defined(dice(*case[segmentation, position].tolist()) for case in self._cases)
            for position, name in enumerate(self.members)
        }
