"""What intensity alone can give: the best thresholds that can be fitted, without any sense of place or shape.

Per label, the set of intensities is chosen whose voxels have the greatest Dice with the label over all training
cases. Ordered by the label's share of the voxels of each intensity, that set is a prefix, so the choice is exact.
Intensities are standardised per case, as segtl's own rule does for MR.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

EDGES = np.linspace(-3, 6, 181)


@dataclass(frozen=True)
class Thresholds:
    """Label value per bin of the standardised intensity; 0 where none is worth claiming it.

    Args:
        label_of_bin: One label value for each bin between :data:`EDGES` and the two open ends.
    """

    label_of_bin: np.ndarray

    @classmethod
    def fit(cls, cases: Iterable[tuple[np.ndarray, np.ndarray]], values: Iterable[int]) -> Thresholds:
        """Fit on training cases.

        Args:
            cases: Intensities and label values of one shape, case by case.
            values: Label values, without background.
        """
        counts = {value: np.zeros(EDGES.size + 1) for value in values}
        total = np.zeros(EDGES.size + 1)
        for image, labels in cases:
            bins = _bins(image)
            total += np.bincount(bins.ravel(), minlength=total.size)
            for value, count in counts.items():
                count += np.bincount(bins[labels == value], minlength=total.size)
        share = {value: count / np.maximum(total, 1) for value, count in counts.items()}
        label_of_bin = np.zeros(total.size, np.uint8)
        claimed = np.zeros(total.size)
        for value, count in counts.items():
            order = np.argsort(-share[value], kind="stable")
            dice = 2 * np.cumsum(count[order]) / (np.cumsum(total[order]) + count.sum())
            chosen = order[: dice.argmax() + 1]
            won = chosen[share[value][chosen] > claimed[chosen]]
            label_of_bin[won], claimed[won] = value, share[value][won]
        return cls(label_of_bin)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Intensities -> label values of the same shape."""
        return self.label_of_bin[_bins(image)]


def _bins(image: np.ndarray) -> np.ndarray:
    return np.digitize((image - image.mean()) / image.std(), EDGES)
