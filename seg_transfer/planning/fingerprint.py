"""Measurements of a data set, which the rules decide from.

Pooled foreground statistics follow nnU-Net (Isensee et al., Nature Methods 18:203-211, 2021): every case has the same
weight, whatever the size of its foreground.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from seg_transfer.data.description import Region
from seg_transfer.data.duplicates import Duplicates, find_duplicates
from seg_transfer.planning.case_fingerprint import Intensity, intensity_of_sketch, rounded
from seg_transfer.planning.case_records import CaseRecords, PackedCases
from seg_transfer.planning.counted import Counted
from seg_transfer.planning.fields import Spacing
from seg_transfer.planning.label_means import LabelSpread
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.records import JsonRecord, Record, content_digest, seal


class PooledChannel(Record):
    """One channel over all cases."""

    name: str
    dtypes: tuple[str, ...]
    minimum: float = Field(description="over all voxels of all images")
    maximum: float = Field(description="over all voxels of all images")
    outlier_ratio: float = Field(description="median over the cases")
    label_spread: LabelSpread | None = Field(description="None where no two cases can be compared")
    foreground: Intensity | None = Field(description="equal weight per case; None where no case has foreground")


class PooledLabel(Record):
    """One label over all cases."""

    name: str
    value: int
    cases: int = Field(description="cases that hold the label")
    voxels: int = Field(description="sum over the cases")
    median_ml: float | None = Field(description="over the cases that hold it; None in pixels or where none does")


class Fingerprint(JsonRecord):
    """The measurements of a data set, per case and pooled."""

    noun: ClassVar[str] = "fingerprint"
    if_missing: ClassVar[str] = "run `segtl plan DATASET` first"
    if_wrong: ClassVar[str] = "plan again"

    version: Literal[5] = 5
    dataset: str
    dimension: Literal[2, 3]
    unit: Literal["mm", "pixel"]
    spacing: Spacing = Field(description="median over the cases, canonical (x, y, z)")
    shape: tuple[float, float, float] = Field(description="median over the cases, canonical (x, y, z)")
    cropped_shape: tuple[float, float, float] = Field(description="median over the cases, canonical (x, y, z)")
    crop_ratio: float = Field(description="median share of the voxels that cropping to nonzero keeps")
    channels: tuple[PooledChannel, ...]
    labels: tuple[PooledLabel, ...] = Field(description="without background")
    regions: tuple[Region, ...] = Field(default=(), description="outputs in place of the labels")
    ignore: int | None = Field(default=None, description="value in label files of voxels that are not annotated")
    cases: PackedCases = Field(exclude=True)
    merged: SiteFingerprint | None = Field(
        default=None, exclude=True, description="sum of this and other sites, where the pooled figures are of both"
    )

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Version 4 drew samples, with a seed."""
        return {name: value for name, value in content.items() if name != "seed"} if version == 4 else None

    def median_text(self) -> str:
        """Shape and spacing of the median case, such as ``256 x 256 x 35 voxels of 1.25 x 1.25 x 7.7 mm``."""
        shape, spacing = (
            " x ".join(f"{size:.4g}" for size in sizes[: self.dimension]) for sizes in (self.shape, self.spacing)
        )
        return f"{shape} {'pixels' if self.unit == 'pixel' else f'voxels of {spacing} mm'}"

    def site(self) -> SiteFingerprint:
        """The sum of the cases that rules decide from: with those of other sites, or else of these cases alone."""
        return self.merged or SiteFingerprint.of(
            self.cases,
            dimension=self.dimension,
            unit=self.unit,
            channels=[channel.name for channel in self.channels],
            labels=[(label.name, label.value) for label in self.labels],
            regions=self.regions,
            ignore=self.ignore,
        )

    def with_sites(self, merged: SiteFingerprint) -> Fingerprint:
        """These cases, with the pooled figures of this and of other sites."""
        return pool(self.dataset, merged, self.cases).model_copy(update={"merged": merged})

    def held_labels(self) -> dict[str, tuple[str, ...]]:
        """Case -> names of its labels."""
        names = [label.name for label in self.labels]
        return {
            case.id: tuple(name for name, label in zip(names, case.labels, strict=True) if label.voxels)
            for case in self.cases
        }

    def duplicates(self) -> list[Duplicates]:
        """Cases that hold the same image."""
        counts = Counter(case.image_hash for case in self.cases)
        if len(counts) == len(self.cases):
            return []
        same = [case for case in self.cases if counts[case.image_hash] > 1]
        return find_duplicates({case.id: case.image_hash for case in same}, {case.id: case.label_hash for case in same})

    def to_json(self) -> str:
        """The text of the file."""
        return "".join(self.pieces())

    def pieces(self) -> Iterator[str]:
        """JSON with one line per case."""
        pooled = self.model_dump(mode="json")
        yield json.dumps(pooled, indent=1).removesuffix("\n}") + ',\n "cases": ['
        for number, text in enumerate(self.cases.texts()):
            yield f"{',' if number else ''}\n  {json.dumps(json.loads(text))}"
        yield "\n ]" + seal(content_digest(pooled | {"cases": map(json.loads, self.cases.texts())}))


def pool(dataset: str, site: SiteFingerprint, cases: CaseRecords) -> Fingerprint:
    """The fingerprint of a data set's cases, with pooled figures from a sum.

    Args:
        dataset: Name of the data set.
        site: Sum of these cases, or of these and others.
        cases: The data set's cases.
    """
    return Fingerprint(
        dataset=dataset,
        dimension=site.dimension,
        unit=site.unit,
        spacing=_medians(site.images.spacing),
        shape=_medians(site.shape),
        cropped_shape=_medians(site.cropped_shape),
        crop_ratio=rounded(site.crop_ratio.median()),
        channels=tuple(
            PooledChannel(
                name=channel.name,
                dtypes=channel.dtypes,
                minimum=channel.minimum,
                maximum=channel.maximum,
                outlier_ratio=rounded(channel.outlier_ratio.median()),
                label_spread=channel.label_means.spread(),
                foreground=None if channel.foreground is None else intensity_of_sketch(channel.foreground.sketch()),
            )
            for channel in site.channels
        ),
        labels=tuple(
            PooledLabel(
                name=label.name,
                value=label.value,
                cases=label.cases,
                voxels=label.voxels,
                median_ml=rounded(label.ml.median()) if label.ml.rows else None,
            )
            for label in site.labels
        ),
        regions=site.regions,
        ignore=site.ignore,
        cases=cases,
    )


def _medians(axes: Sequence[Counted]) -> tuple[float, float, float]:
    x, y, z = (rounded(counted.median()) for counted in axes)
    return x, y, z
