"""The sum over the cases of a site, from which the rules decide: counts and histograms, no case and no name of one.

Two sums are added without knowing their cases. Folds, duplicates and unusual cases need single cases and are not here
but in :class:`~seg_transfer.planning.fingerprint.Fingerprint`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial, reduce
from itertools import chain, islice, repeat
from operator import add
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from seg_transfer.data.description import LabelInteger, Region
from seg_transfer.planning.case_fingerprint import CaseFingerprint
from seg_transfer.planning.counted import Count, Counted
from seg_transfer.planning.distribution import Sketch
from seg_transfer.planning.sides import Sides
from seg_transfer.planning.site_parts import PerAxis, SiteChannel, SiteImages, SiteLabel, per_axis
from seg_transfer.util.records import JsonRecord
from seg_transfer.util.units import SPACINGS

MOST_CASES = 10**9
AT_ONCE = 1000
"""Cases that are summed up in one step."""
LONGEST_AXIS = 2**31
"""Voxels along an axis."""


class SiteFingerprint(JsonRecord):
    """The measurements of a site's cases, or of those of several sites, summed up."""

    noun: ClassVar[str] = "site's fingerprint"
    if_missing: ClassVar[str] = "give the site.json of another site's work folder"
    if_wrong: ClassVar[str] = "give the site.json that `segtl plan` of this version wrote at the other site, unchanged"

    version: Literal[1] = 1
    dimension: Literal[2, 3]
    unit: Literal["mm", "pixel"]
    channels: tuple[SiteChannel, ...] = Field(min_length=1)
    labels: tuple[SiteLabel, ...] = Field(min_length=1, description="without background")
    regions: tuple[Region, ...] = Field(default=(), description="outputs in place of the labels")
    ignore: LabelInteger | None = Field(default=None, description="value of voxels that are not annotated")
    cases: int = Field(strict=True, ge=1, le=MOST_CASES)
    images: SiteImages
    shape: PerAxis
    cropped_shape: PerAxis = Field(description="box around the voxels where any channel is nonzero")
    cropped_extent: PerAxis = Field(description="the same box, in voxels times spacing")
    extents: Counted = Field(description="voxels times spacing along x, y and z, of each case")
    cropped_extents: Counted = Field(description="the same of the box around the nonzero voxels")
    crop_ratio: Counted = Field(description="share of the voxels that cropping to nonzero keeps")
    annotated: Counted = Field(description="share of the voxels that are annotated")
    annotated_voxels: Count = Field(description="sum over the cases")
    labelled: Counted = Field(description="share of labelled voxels among the annotated ones")
    labelled_slices: tuple[Count, Count, Count] = Field(
        description="slices with a label across each axis, summed over the cases; per case the largest number of any "
        "label: a lower bound where labels are in different slices"
    )
    sides: tuple[Sides, Sides, Sides] = Field(description="along each axis")

    @classmethod
    def of(
        cls,
        cases: Iterable[CaseFingerprint],
        *,
        dimension: Literal[2, 3],
        unit: Literal["mm", "pixel"],
        channels: Sequence[str],
        labels: Sequence[tuple[str, int]],
        regions: tuple[Region, ...] = (),
        ignore: int | None = None,
        foreground: Sequence[Sketch | None] | None = None,
    ) -> SiteFingerprint:
        """Sum up at least one case, :data:`AT_ONCE` at a time, so that no more of them have to be in memory.

        Args:
            cases: Measurements of each case.
            dimension: 2 for 2D images.
            unit: Of the spacing.
            channels: Names of the channels.
            labels: (name, value), without background.
            regions: Outputs in place of the labels.
            ignore: Value of voxels that are not annotated.
            foreground: Per channel the intensities of the foreground of these cases; None: they are not known.
        """
        step = partial(
            cls._of_some,
            dimension=dimension,
            unit=unit,
            channels=channels,
            labels=labels,
            regions=regions,
            ignore=ignore,
        )
        remaining, nothing = iter(cases), [None] * len(channels)
        some = iter(lambda: list(islice(remaining, AT_ONCE)), [])
        return reduce(add, map(step, some, chain([foreground or nothing], repeat(nothing))))

    @classmethod
    def _of_some(
        cls,
        cases: Sequence[CaseFingerprint],
        foreground: Sequence[Sketch | None],
        *,
        dimension: Literal[2, 3],
        unit: Literal["mm", "pixel"],
        channels: Sequence[str],
        labels: Sequence[tuple[str, int]],
        regions: tuple[Region, ...],
        ignore: int | None,
    ) -> SiteFingerprint:
        images = SiteImages.of(cases)
        spacing = np.array([case.spacing for case in cases])
        shape, cropped = (np.array(shapes) for shapes in zip(*((c.shape, c.cropped_shape) for c in cases), strict=True))
        annotated = [float(np.prod(case.shape)) * case.annotated for case in cases]
        of_channels = zip(channels, zip(*(case.channels for case in cases), strict=True), foreground, strict=True)
        of_labels = zip(labels, zip(*(case.labels for case in cases), strict=True), strict=True)
        slices = np.sum([np.max([label.slices for label in case.labels], axis=0) for case in cases], axis=0)
        return cls(
            dimension=dimension,
            unit=unit,
            channels=tuple(SiteChannel.of(*channel) for channel in of_channels),
            labels=tuple(SiteLabel.of(name, value, of_cases) for (name, value), of_cases in of_labels),
            regions=regions,
            ignore=ignore,
            cases=len(cases),
            images=images,
            shape=Counted.columns(shape),
            cropped_shape=Counted.columns(cropped),
            cropped_extent=Counted.columns(cropped * spacing),
            extents=Counted.of(shape * spacing),
            cropped_extents=Counted.of(cropped * spacing),
            crop_ratio=Counted.of([case.crop_ratio for case in cases]),
            annotated=Counted.of([case.annotated for case in cases]),
            annotated_voxels=sum(round(voxels) for voxels in annotated),
            labelled=Counted.of(
                [
                    sum(label.voxels for label in case.labels) / voxels
                    for case, voxels in zip(cases, annotated, strict=True)
                ]
            ),
            labelled_slices=tuple(slices.tolist()),
            sides=(Sides.of(cases, 0), Sides.of(cases, 1), Sides.of(cases, 2)),
        )

    def __add__(self, other: SiteFingerprint) -> SiteFingerprint:
        """The cases of both sites together; they agree in all that is no sum.

        Counts are the same in whatever order sites are added. Means and variances differ in the last bits of float64;
        percentiles of the foreground as :class:`~seg_transfer.planning.distribution.Sketch` says.
        """
        first, then = self.labelled_slices, other.labelled_slices
        return SiteFingerprint(
            dimension=self.dimension,
            unit=self.unit,
            channels=tuple(one + two for one, two in zip(self.channels, other.channels, strict=True)),
            labels=tuple(one + two for one, two in zip(self.labels, other.labels, strict=True)),
            regions=self.regions,
            ignore=self.ignore,
            cases=self.cases + other.cases,
            images=self.images + other.images,
            shape=per_axis(self.shape, other.shape),
            cropped_shape=per_axis(self.cropped_shape, other.cropped_shape),
            cropped_extent=per_axis(self.cropped_extent, other.cropped_extent),
            extents=self.extents + other.extents,
            cropped_extents=self.cropped_extents + other.cropped_extents,
            crop_ratio=self.crop_ratio + other.crop_ratio,
            annotated=self.annotated + other.annotated,
            annotated_voxels=self.annotated_voxels + other.annotated_voxels,
            labelled=self.labelled + other.labelled,
            labelled_slices=(first[0] + then[0], first[1] + then[1], first[2] + then[2]),
            sides=(
                self.sides[0] + other.sides[0],
                self.sides[1] + other.sides[1],
                self.sides[2] + other.sides[2],
            ),
        )

    @model_validator(mode="after")
    def _is_consistent(self) -> SiteFingerprint:
        images, longest = self.images, float(LONGEST_AXIS)
        across = longest * SPACINGS[1]
        for what, parts, width, low, high in (
            ("images.spacing", images.spacing, 1, *SPACINGS),
            ("images.extent", images.extent, 1, SPACINGS[0], across),
            ("images.channels", images.channels, 4, -np.inf, np.inf),
            ("shape", self.shape, 1, 1.0, longest),
            ("cropped_shape", self.cropped_shape, 1, 1.0, longest),
            ("cropped_extent", self.cropped_extent, 1, SPACINGS[0], across),
            ("extents", (self.extents, self.cropped_extents), 3, SPACINGS[0], across),
            ("outlier_ratio", [channel.outlier_ratio for channel in self.channels], 1, 0.0, 1e7),
            ("share", (self.crop_ratio, self.annotated, self.labelled), 1, 0.0, 1.0),
        ):
            for part in parts:
                if part.size != self.cases or part.width != width:
                    raise ValueError(f"{what}: {part.size} rows of {part.width}, not {self.cases} of {width}")
                if not low * (1 - 1e-6) <= np.min(part.rows) <= np.max(part.rows) <= high * (1 + 1e-6):
                    raise ValueError(f"{what}: a value that is not between {low:g} and {high:g}")
        if len(images.channels) != len(self.channels) or any(len(s.single) != len(self.labels) for s in self.sides):
            raise ValueError("parts of different numbers of channels or labels")
        self._check_channels()
        for label in self.labels:
            if label.cases > self.cases or label.voxels < label.cases or label.voxels > self.annotated_voxels:
                raise ValueError(f"labels: {label.voxels} voxels in {label.cases} of {self.cases} cases")
            if label.ml.size not in (0, label.cases) or label.ml.width > 1:
                raise ValueError("labels: not one volume per case that holds the label")
            if label.ml.rows and np.min(label.ml.rows) <= 0:
                raise ValueError("labels: a volume that is not positive")
        return self

    def _check_channels(self) -> None:
        for channel, figures in zip(self.channels, self.images.channels, strict=True):
            means = channel.label_means
            if {len(means.as_stored), len(means.zscore)} != {len(self.labels) + 1}:
                raise ValueError("channels: not one mean per label")
            if any(m.count > self.cases for m in (means.variances, *means.as_stored, *means.zscore)):
                raise ValueError("channels: means of more images than there are")
            slack = 1e-6 * max(abs(channel.minimum), abs(channel.maximum))
            least, largest = channel.minimum - slack, channel.maximum + slack
            lowest, highest, mean, std = np.array(figures.rows).T
            if not (least <= min(lowest.min(), mean.min()) and max(highest.max(), mean.max()) <= largest):
                raise ValueError("channels: intensities beyond the channel's minimum and maximum")
            if std.min() < 0:
                raise ValueError("channels: a negative standard deviation")
            inside = channel.foreground
            if inside is not None and not (least <= inside.least <= inside.largest <= largest):
                raise ValueError("channels: a foreground beyond the channel's minimum and maximum")

    def foreground_share(self) -> float:
        """Median over the cases of the share of labelled voxels among the annotated ones."""
        return self.labelled.median()

    def smallest_label(self) -> tuple[str, float, int]:
        """Name of the label with the fewest voxels, its share of all annotated voxels, and its number of cases."""
        label = min(self.labels, key=lambda label: label.voxels)
        return label.name, label.voxels / self.annotated_voxels, label.cases

    def to_json(self) -> str:
        """JSON with one line per field."""
        lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in self.model_dump(mode="json").items())
        return "{\n" + ",\n".join(lines) + "\n}"
