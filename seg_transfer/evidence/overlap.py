"""Dice of several segmentations of the same cases, counted part by part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util.statistics import dice, mean_of_defined


class Overlaps:
    """Counts voxels of predictions and reference per label or region, on the network's grid.

    Args:
        data: Names the labels or regions.
        segmentations: How many are compared.
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
        """Count a part of the case; voxels that are not annotated do not count.

        Args:
            segmentation: Index of the segmentation.
            predicted: Class indices.
            label: Class indices of the same shape.
        """
        if self.not_annotated is not None:
            annotated = label != self.not_annotated
            predicted, label = predicted[annotated], label[annotated]
        for row, classes in zip(self._cases[-1][segmentation], self.members.values(), strict=True):
            mine, theirs = np.isin(predicted, classes), np.isin(label, classes)
            row += ((mine & theirs).sum(), mine.sum(), theirs.sum())

    def mean_dice(self, segmentation: int) -> dict[str, float]:
        """Label or region -> mean Dice over the cases that have it or where it is predicted; nan without any."""
        return {
            name: mean_of_defined(dice(*case[segmentation, position].tolist()) for case in self._cases)
            for position, name in enumerate(self.members)
        }
