"""Panoptic quality: how well objects are found, told apart and outlined (Kirillov et al., CVPR 2019)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LEAST_IOU = 0.5
"""A predicted and a true object match above this IoU; so each matches at most one."""


class PanopticQuality(NamedTuple):
    """The quality of a case's objects.

    Attributes:
        segmentation: SQ, the mean IoU of the objects that match; nan if none do.
        recognition: RQ, the F1 score of the objects: matches over the mean number of objects of both maps; nan if
            neither map has an object.
    """

    segmentation: float
    recognition: float

    @property
    def quality(self) -> float:
        """PQ, the product of both; 0 if no objects match."""
        return self.segmentation * self.recognition if self.recognition else self.recognition


def panoptic_quality(prediction: np.ndarray, reference: np.ndarray) -> PanopticQuality:
    """Compare the objects of two label maps; which numbers they have does not matter.

    Args:
        prediction: 0, or the number of an object.
        reference: The same of the reference, of the same shape.
    """
    import numpy as np

    predicted, of_predicted = np.unique(prediction, return_inverse=True)
    true, of_true = np.unique(reference, return_inverse=True)
    pairs, common = np.unique(of_predicted.reshape(-1) * len(true) + of_true.reshape(-1), return_counts=True)
    of_predicted, of_true = np.divmod(pairs, max(len(true), 1))
    union = np.bincount(of_predicted, common)[of_predicted] + np.bincount(of_true, common)[of_true] - common
    iou = (common / union)[(predicted[of_predicted] != 0) & (true[of_true] != 0)]
    matches = iou[iou > LEAST_IOU]
    objects = (np.count_nonzero(predicted) + np.count_nonzero(true)) / 2
    return PanopticQuality(
        segmentation=float(matches.mean()) if matches.size else math.nan,
        recognition=matches.size / objects if objects else math.nan,
    )
