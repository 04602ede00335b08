"""How sure a prediction is: the entropy of the mean probabilities, and one number per case.

Both are computed slice by slice while labels are decided, so that memory holds one byte more per voxel of the file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seg_transfer.inference.classes import REGION_THRESHOLD, decide
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform

PERCENT = 100
"""Value of the entropy map where all classes are equally probable."""
_LEAST = np.float32(1e-30)


class Uncertainty:
    """The entropy map of one case, and the sums of its confidence.

    The entropy is that of the classes, or the mean of those of the regions, in percent of its largest value:
    ``-100 / log(n) * sum(p * log(p))`` for n classes. A boundary between two of many classes stays far below 100.

    The confidence is the mean probability of a predicted label within its own voxels, averaged over the labels. Of the
    figures of ``bench/uncertainty.py`` it ranked cases best by their true Dice on those that were set aside to choose
    it (docs/log.md, 2026-11-29). It is no estimate of the Dice. It is that of the label map before small components are
    removed.

    Args:
        transform: The case's transform.
        data: The plan's data part.

    Attributes:
        entropy: ``(i, j, k)`` in the file's order, in whole percent; 0 outside of the crop.
    """

    def __init__(self, transform: CaseTransform, data: DataPlan) -> None:
        self.entropy, self._cropped = transform.blank_labels(np.uint8)
        self._data = data
        self._sums = np.zeros((2, len(data.outputs)))  # of each output its voxels, and their probabilities

    def add(self, axis: int, index: int, probabilities: NDArray[np.float32]) -> None:
        """Add a slice.

        Args:
            axis: Axis of ``(slice, u, v)`` across it.
            index: Its index along this axis, in the crop.
            probabilities: ``(output, ...)``.
        """
        regions = bool(self._data.regions)
        winner = None if regions else decide(probabilities, self._data)
        total = np.zeros(probabilities.shape[1:], np.float32)
        for output, probability in enumerate(probabilities):
            mask = probability > REGION_THRESHOLD if winner is None else winner == output
            self._sums[:, output] += mask.sum(), probability[mask].sum(dtype=np.float64)
            total -= _times_log(probability)
            if regions:
                total -= _times_log(1 - probability)
        most = len(probabilities) * math.log(2) if regions else math.log(len(probabilities))
        self._cropped[(slice(None),) * axis + (index,)] = np.clip(
            np.rint(total * np.float32(PERCENT / most)), 0, PERCENT
        )

    @property
    def confidence(self) -> float:
        """Mean over the predicted labels or regions of the mean probability within each, 0 to 1; 0 where none is."""
        voxels, mass = self._sums if self._data.regions else self._sums[:, 1:]  # without the background
        predicted = voxels > 0
        return float(np.mean(mass[predicted] / voxels[predicted])) if predicted.any() else 0.0


def _times_log(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    return probability * np.log(np.maximum(probability, _LEAST))
