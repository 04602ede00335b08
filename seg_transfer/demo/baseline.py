"""The baseline of the demo: optimal thresholds on intensity, which know nothing of position or shape.

For each label the set of intensities with the highest Dice over all training cases is chosen. With intensities sorted
by the label's share of their voxels, this set is a prefix, so that the choice is exact. Intensities are standardised
per case, as segtl does for MR.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

EDGES = np.linspace(-3, 6, 181)


@dataclass(frozen=True)
class Thresholds:
    """Label value of each bin of standardised intensity.

    Args:
        label_of_bin: Label value, or 0, of each bin between :data:`EDGES` and of the two open ends.
    """

    label_of_bin: np.ndarray

    @classmethod
    def fit(cls, cases: Iterable[tuple[np.ndarray, np.ndarray]], values: Iterable[int]) -> Thresholds:
        """Fit on training cases.

        Args:
            cases: Intensities and label values of each case, both of the same shape.
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
        highest_share = np.zeros(total.size)
        for value, count in counts.items():
            order = np.argsort(-share[value], kind="stable")
            dice = 2 * np.cumsum(count[order]) / (np.cumsum(total[order]) + count.sum())
            chosen = order[: dice.argmax() + 1]
            bins = chosen[share[value][chosen] > highest_share[chosen]]
            label_of_bin[bins], highest_share[bins] = value, share[value][bins]
        return cls(label_of_bin)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Intensities -> label values of the same shape."""
        return self.label_of_bin[_bins(image)]


def _bins(image: np.ndarray) -> np.ndarray:
    return np.digitize((image - image.mean()) / image.std(), EDGES)
