"""Dice of several segmentations of the same cases, counted part by part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import DataPlan


class Overlaps:
    """Counts what predictions and labels have in common, label by label or region by region, on the network's grid.

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
        """What is added from now on belongs to the next case."""
        self._cases.append(np.zeros((self.segmentations, len(self.members), 2), np.int64))

    def add(self, segmentation: int, predicted: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Count a part of the case; voxels that are not annotated do not count.

        Args:
            segmentation: Which one.
            predicted: Class indices.
            label: Class indices of the same shape.
        """
        if self.not_annotated is not None:
            annotated = label != self.not_annotated
            predicted, label = predicted[annotated], label[annotated]
        for row, classes in zip(self._cases[-1][segmentation], self.members.values(), strict=True):
            mine, theirs = np.isin(predicted, classes), np.isin(label, classes)
            row += (2 * (mine & theirs).sum(), mine.sum() + theirs.sum())

    def mean_dice(self, segmentation: int) -> dict[str, float | None]:
        """Mean Dice over the cases in which a label is or was predicted; None if there is no such case."""
        found: dict[str, float | None] = {}
        for position, name in enumerate(self.members):
            counts = [case[segmentation, position] for case in self._cases]
            known = [float(common / both) for common, both in counts if both]
            found[name] = sum(known) / len(known) if known else None
        return found
