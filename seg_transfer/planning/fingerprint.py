"""Measurements of a data set, which the rules decide from.

Pooled foreground statistics follow nnU-Net (Isensee et al., Nature Methods 18:203-211, 2021): every case has the same
weight, whatever the size of its foreground.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from seg_transfer.data.dataset import Dataset
from seg_transfer.data.description import Region
from seg_transfer.data.duplicates import Duplicates, find_duplicates
from seg_transfer.planning.case_fingerprint import CaseChannel, CaseFingerprint, Intensity, rounded
from seg_transfer.planning.fields import Spacing
from seg_transfer.util.records import JsonRecord, Record


class LabelSpread(Record):
    """How much the mean intensity of the same label differs between cases.

    Standard deviation over the cases, root mean square over the labels and the background, divided by the standard
    deviation within an image. The normalization with the smaller spread makes a label more similar in all cases.
    """

    as_stored: float
    zscore: float = Field(description="after z-score of each whole image")


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
    cases: tuple[CaseFingerprint, ...]

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

    def labelled_slices(self, axis: int) -> int:
        """Number of slices with a label across a canonical axis, summed over the cases.

        Per case it is the largest number of any label: a lower bound where labels are in different slices.
        """
        return sum(max(label.slices[axis] for label in case.labels) for case in self.cases)

    def foreground_share(self) -> float:
        """Median over the cases of the share of labelled voxels among the annotated ones."""
        shares = [
            sum(label.voxels for label in case.labels) / (np.prod(case.shape) * case.annotated) for case in self.cases
        ]
        return float(np.median(shares))

    def held_labels(self) -> dict[str, tuple[str, ...]]:
        """Case -> names of its labels."""
        names = [label.name for label in self.labels]
        return {
            case.id: tuple(name for name, label in zip(names, case.labels, strict=True) if label.voxels)
            for case in self.cases
        }

    def duplicates(self) -> list[Duplicates]:
        """Cases that hold the same image."""
        return find_duplicates(
            {case.id: case.image_hash for case in self.cases}, {case.id: case.label_hash for case in self.cases}
        )

    def smallest_label(self) -> tuple[str, float, int]:
        """Name of the label with the fewest voxels, its share of all annotated voxels, and its number of cases."""
        label = min(self.labels, key=lambda label: label.voxels)
        annotated = sum(np.prod(case.shape) * case.annotated for case in self.cases)
        return label.name, float(label.voxels / annotated), label.cases

    def to_json(self) -> str:
        """JSON with one line per case."""
        content = self.model_dump(mode="json")
        cases = ",\n  ".join(json.dumps(case) for case in content.pop("cases"))
        head = json.dumps(content, indent=1).removesuffix("\n}")
        return f'{head},\n "cases": [\n  {cases}\n ]\n}}'


def pool(dataset: Dataset, cases: list[CaseFingerprint], intensities: list[Intensity | None]) -> Fingerprint:
    """Pool the measurements of the cases; ``intensities`` are the pooled foreground statistics per channel."""
    channels = []
    for index, (name, intensity) in enumerate(zip(dataset.channel_names, intensities, strict=True)):
        of_cases = [case.channels[index] for case in cases]
        channels.append(
            PooledChannel(
                name=name,
                dtypes=tuple(sorted({channel.dtype for channel in of_cases})),
                minimum=min(channel.minimum for channel in of_cases),
                maximum=max(channel.maximum for channel in of_cases),
                outlier_ratio=rounded(np.median([channel.outlier_ratio for channel in of_cases])),
                label_spread=label_spread(of_cases),
                foreground=intensity,
            )
        )
    labels = []
    for index, (name, value) in enumerate(dataset.labels[1:]):
        present = [case.labels[index] for case in cases if case.labels[index].voxels]
        millilitres = [label.ml for label in present if label.ml is not None]
        labels.append(
            PooledLabel(
                name=name,
                value=value,
                cases=len(present),
                voxels=sum(label.voxels for label in present),
                median_ml=rounded(np.median(millilitres)) if millilitres else None,
            )
        )
    return Fingerprint(
        dataset=dataset.name,
        dimension=dataset.dimension,
        unit=dataset.unit,
        spacing=_median([case.spacing for case in cases]),
        shape=_median([case.shape for case in cases]),
        cropped_shape=_median([case.cropped_shape for case in cases]),
        crop_ratio=rounded(np.median([case.crop_ratio for case in cases])),
        channels=tuple(channels),
        labels=tuple(labels),
        regions=dataset.regions,
        ignore=dataset.ignore,
        cases=tuple(cases),
    )


def label_spread(cases: Sequence[CaseChannel]) -> LabelSpread | None:
    """Compare a channel's label means between cases; uniform images are ignored.

    Returns:
        The spread, or None if no label is in two cases.
    """
    cases = [case for case in cases if case.std > 0]
    if len(cases) < 2:
        return None
    label_means = np.array([case.label_means for case in cases], dtype=np.float64)
    label_means = label_means[:, (~np.isnan(label_means)).sum(axis=0) > 1]
    if not label_means.size:
        return None
    means, stds = np.array([(case.mean, case.std) for case in cases]).T
    within = np.sqrt(np.mean(stds**2))
    return LabelSpread(
        as_stored=rounded(_rms_between(label_means) / within),
        zscore=rounded(_rms_between((label_means - means[:, None]) / stds[:, None])),
    )


def _rms_between(means: np.ndarray) -> float:
    """Standard deviation over cases, root mean square over labels, of ``(case, label)``; nan where it is absent."""
    return float(np.sqrt(np.mean(np.nanvar(means, axis=0))))


def _median(triples: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = (rounded(value) for value in np.median(triples, axis=0))
    return x, y, z
