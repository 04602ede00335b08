"""Parts of a site's fingerprint: images, a channel, a label. Each is a sum over cases and can be added to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from seg_transfer.planning.case_fingerprint import CaseChannel, CaseFingerprint, CaseLabel
from seg_transfer.planning.counted import Count, Counted, Figure
from seg_transfer.planning.distribution import MOST_BINS, Sketch
from seg_transfer.planning.label_means import LabelMeans
from seg_transfer.util.records import Record

PerAxis = tuple[Counted, Counted, Counted]
"""Along each canonical axis (x, y, z)."""
Text = Annotated[str, Field(strict=True, max_length=1000)]


class SketchRecord(Record):
    """A :class:`~seg_transfer.planning.distribution.Sketch` in a file."""

    exponent: int = Field(strict=True, ge=-1074, le=1023, description="a bin is 2 ** exponent wide")
    bins: tuple[Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)], ...] = Field(
        min_length=1, max_length=MOST_BINS, description="ascending; a bin's middle is at bins * 2 ** exponent"
    )
    weights: tuple[Annotated[float, Field(strict=True, gt=0, le=2**53)], ...] = Field(
        description="of each bin; those of a case together are 1"
    )
    mean: Figure
    variance: float = Field(strict=True, ge=0)
    least: Figure
    largest: Figure

    @model_validator(mode="after")
    def _is_consistent(self) -> SketchRecord:
        if len(self.bins) != len(self.weights):
            raise ValueError(f"{len(self.bins)} bins, but {len(self.weights)} weights")
        if (np.diff(np.array(self.bins)) <= 0).any():
            raise ValueError("the bins do not ascend")
        slack = 1e-6 * max(abs(self.least), abs(self.largest))
        if not self.least - slack <= self.mean <= self.largest + slack:
            raise ValueError("the mean is not between the least and the largest value")
        if self.variance > (self.largest - self.least + slack) ** 2:
            raise ValueError("the variance is larger than values between the least and the largest can have")
        return self

    @classmethod
    def of(cls, sketch: Sketch) -> SketchRecord:
        """What the file holds of a sketch."""
        return cls(
            exponent=int(sketch.exponent),
            bins=tuple(sketch.bins.tolist()),
            weights=tuple(sketch.weights.tolist()),
            mean=sketch.mean,
            variance=sketch.variance,
            least=sketch.least,
            largest=sketch.largest,
        )

    def sketch(self) -> Sketch:
        """The sketch again."""
        bins, weights = np.array(self.bins, np.int64), np.array(self.weights)
        return Sketch(self.exponent, bins, weights, self.mean, self.variance, self.least, self.largest)


class SiteImages(Record):
    """Geometry and intensities of the images: what further images are compared with."""

    spacing: PerAxis = Field(description="in the data set's unit")
    extent: PerAxis = Field(description="voxels times spacing")
    orientations: tuple[Annotated[str, Field(strict=True, pattern=r"^[LRPAIS]{3}$")], ...] = Field(
        min_length=1, description="directions of the files' axes, such as LPS; sorted"
    )
    channels: tuple[Counted, ...] = Field(
        min_length=1, description="per channel: minimum, maximum, mean and standard deviation of each image"
    )

    @classmethod
    def of(cls, cases: Sequence[CaseFingerprint]) -> SiteImages:
        """Sum up the images of at least one case."""
        spacing = np.array([case.spacing for case in cases])
        return cls(
            spacing=Counted.columns(spacing),
            extent=Counted.columns(spacing * np.array([case.shape for case in cases])),
            orientations=tuple(sorted({case.orientation for case in cases})),
            channels=tuple(
                Counted.of([(one.minimum, one.maximum, one.mean, one.std) for one in of_cases])
                for of_cases in zip(*(case.channels for case in cases), strict=True)
            ),
        )

    def __add__(self, other: SiteImages) -> SiteImages:
        """Both together."""
        return SiteImages(
            spacing=per_axis(self.spacing, other.spacing),
            extent=per_axis(self.extent, other.extent),
            orientations=tuple(sorted({*self.orientations, *other.orientations})),
            channels=tuple(one + two for one, two in zip(self.channels, other.channels, strict=True)),
        )


class SiteChannel(Record):
    """One channel."""

    name: Text
    dtypes: tuple[Text, ...] = Field(min_length=1, description="data types on disk; sorted")
    minimum: Figure = Field(description="over all voxels of all images")
    maximum: Figure = Field(description="over all voxels of all images")
    outlier_ratio: Counted = Field(description="of each image")
    label_means: LabelMeans
    foreground: SketchRecord | None = Field(description="intensities of the labelled voxels; None without them")

    @classmethod
    def of(cls, name: str, cases: Sequence[CaseChannel], foreground: Sketch | None) -> SiteChannel:
        """Sum up a channel of at least one case."""
        return cls(
            name=name,
            dtypes=tuple(sorted({case.dtype for case in cases})),
            minimum=min(case.minimum for case in cases),
            maximum=max(case.maximum for case in cases),
            outlier_ratio=Counted.of([case.outlier_ratio for case in cases]),
            label_means=LabelMeans.of(cases),
            foreground=None if foreground is None else SketchRecord.of(foreground),
        )

    def __add__(self, other: SiteChannel) -> SiteChannel:
        """Both together."""
        foreground = self.foreground or other.foreground
        if self.foreground is not None and other.foreground is not None:
            foreground = SketchRecord.of(self.foreground.sketch() + other.foreground.sketch())
        return SiteChannel(
            name=self.name,
            dtypes=tuple(sorted({*self.dtypes, *other.dtypes})),
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            outlier_ratio=self.outlier_ratio + other.outlier_ratio,
            label_means=self.label_means + other.label_means,
            foreground=foreground,
        )


class SiteLabel(Record):
    """One label."""

    name: Text
    value: int = Field(strict=True, description="in the label files")
    cases: Count = Field(description="cases that hold the label")
    voxels: Count = Field(description="sum over the cases")
    ml: Counted = Field(description="its volume in each case that holds it; empty in pixels")

    @classmethod
    def of(cls, name: str, value: int, cases: Iterable[CaseLabel]) -> SiteLabel:
        """Sum up a label of all cases."""
        held = [case for case in cases if case.voxels]
        return cls(
            name=name,
            value=value,
            cases=len(held),
            voxels=sum(case.voxels for case in held),
            ml=Counted.of([case.ml for case in held if case.ml is not None]),
        )

    def __add__(self, other: SiteLabel) -> SiteLabel:
        """Both together."""
        return SiteLabel(
            name=self.name,
            value=self.value,
            cases=self.cases + other.cases,
            voxels=self.voxels + other.voxels,
            ml=self.ml + other.ml,
        )


def per_axis(one: PerAxis, other: PerAxis) -> PerAxis:
    """Counts along each axis together."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]
