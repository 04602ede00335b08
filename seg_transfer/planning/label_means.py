"""How much the mean intensity of the same label differs between cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from seg_transfer.planning.case_fingerprint import CaseChannel, rounded
from seg_transfer.planning.counted import Moments
from seg_transfer.util.records import Record


class LabelSpread(Record):
    """How much the mean intensity of the same label differs between cases.

    Standard deviation over the cases, root mean square over the labels and the background, divided by the standard
    deviation within an image. The normalization with the smaller spread makes a label more similar in all cases.
    """

    as_stored: float
    zscore: float = Field(description="after z-score of each whole image")


class LabelMeans(Record):
    """Mean intensities of the background and of each label in the images of a channel that are not uniform."""

    variances: Moments = Field(description="of the images' variances")
    as_stored: tuple[Moments, ...] = Field(description="of each label's means")
    zscore: tuple[Moments, ...] = Field(description="of each label's means after z-score of the whole image")

    @classmethod
    def of(cls, cases: Sequence[CaseChannel]) -> LabelMeans:
        """Sum up a channel of several cases; uniform images are ignored."""
        labels = len(cases[0].label_means)
        cases = [case for case in cases if case.std > 0]
        means = np.array([case.label_means for case in cases], dtype=np.float64).reshape(-1, labels)
        whole = np.array([(case.mean, case.std) for case in cases], dtype=np.float64).reshape(-1, 2)
        scaled = (means - whole[:, :1]) / whole[:, 1:]
        return cls(
            variances=Moments.of(whole[:, 1] ** 2),
            as_stored=tuple(map(Moments.of, means.T)),
            zscore=tuple(map(Moments.of, scaled.T)),
        )

    def __add__(self, other: LabelMeans) -> LabelMeans:
        """Both together."""
        return LabelMeans(
            variances=self.variances + other.variances,
            as_stored=tuple(one + two for one, two in zip(self.as_stored, other.as_stored, strict=True)),
            zscore=tuple(one + two for one, two in zip(self.zscore, other.zscore, strict=True)),
        )

    def spread(self) -> LabelSpread | None:
        """Compare the label means between cases; None if no label is in two of them."""
        if not any(label.count > 1 for label in self.as_stored) or not self.variances.mean > 0:
            return None
        within = self.variances.mean**0.5
        return LabelSpread(
            as_stored=rounded(_rms_between(self.as_stored) / within), zscore=rounded(_rms_between(self.zscore))
        )


def _rms_between(labels: Sequence[Moments]) -> float:
    """Standard deviation over the cases, root mean square over the labels that are in two of them."""
    variances = [label.variance for label in labels if label.count > 1]
    return float(np.sqrt(np.mean(variances)))
