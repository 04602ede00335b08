"""What a data set measures: the only thing, beside the user's options, that the rules see.

The pooled foreground figures follow nnU-Net (Isensee et al., Nature Methods 18:203-211, 2021): every case has the
same weight, however large its foreground is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.description import Region
from seg_transfer.data.duplicates import Duplicates, find_duplicates
from seg_transfer.errors import UserError
from seg_transfer.planning.case_fingerprint import (
    CaseChannel,
    CaseFingerprint,
    Intensity,
    measure_case,
    pool_intensity,
    rounded,
)
from seg_transfer.planning.fields import Spacing
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.records import JsonRecord, Part

SAMPLES_PER_CASE = 100_000
# Values per channel held at once: beyond 100 cases each case gives fewer, so that memory stays bounded.
POOLED_SAMPLES = 10_000_000


class LabelSpread(Part):
    """How much the mean intensity of one and the same label differs between cases: how little the scale is shared.

    Standard deviation over the cases, root mean square over the labels and the background, over the standard deviation
    within an image. Of two normalizations, the one with the smaller spread makes a label look more alike in all cases.
    """

    as_stored: float
    zscore: float = Field(description="after z-score of each whole image")


class PooledChannel(Part):
    """One channel over all cases."""

    name: str
    dtypes: tuple[str, ...]
    minimum: float = Field(description="lowest over whole images")
    maximum: float = Field(description="highest over whole images")
    outlier_ratio: float = Field(description="median over the cases")
    label_spread: LabelSpread | None = Field(description="None where there are no two cases to compare")
    foreground: Intensity | None = Field(description="equal weight per case; None where no case has foreground")


class PooledLabel(Part):
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

    version: Literal[3] = 3
    dataset: str
    dimension: Literal[2, 3]
    unit: Literal["mm", "pixel"]
    seed: int
    spacing: Spacing = Field(description="median over the cases, canonical (x, y, z)")
    shape: tuple[float, float, float] = Field(description="median over the cases, canonical (x, y, z)")
    cropped_shape: tuple[float, float, float] = Field(description="median over the cases, canonical (x, y, z)")
    crop_ratio: float = Field(description="median share of the voxels that cropping to nonzero keeps")
    channels: tuple[PooledChannel, ...]
    labels: tuple[PooledLabel, ...] = Field(description="without background")
    regions: tuple[Region, ...] = Field(default=(), description="what is predicted in place of the labels")
    ignore: int | None = Field(default=None, description="value in label files of voxels that are not annotated")
    cases: tuple[CaseFingerprint, ...]

    def labelled_slices(self, axis: int) -> int:
        """Slices across a canonical axis that hold a label, summed over the cases.

        Counted per case as the most that any one label has, hence a lower bound where labels lie apart.
        """
        return sum(max(label.slices[axis] for label in case.labels) for case in self.cases)

    def foreground_share(self) -> float:
        """Median over the cases of the share of their annotated voxels that carry a label."""
        shares = [
            sum(label.voxels for label in case.labels) / (np.prod(case.shape) * case.annotated) for case in self.cases
        ]
        return float(np.median(shares))

    def held_labels(self) -> dict[str, tuple[str, ...]]:
        """Case -> names of the labels that it holds."""
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
        """The label with the fewest voxels: its name, its share of all annotated voxels, and the cases that hold it."""
        label = min(self.labels, key=lambda label: label.voxels)
        annotated = sum(np.prod(case.shape) * case.annotated for case in self.cases)
        return label.name, float(label.voxels / annotated), label.cases

    def to_json(self) -> str:
        """JSON with one line per case."""
        content = self.model_dump(mode="json")
        cases = ",\n  ".join(json.dumps(case) for case in content.pop("cases"))
        head = json.dumps(content, indent=1).removesuffix("\n}")
        return f'{head},\n "cases": [\n  {cases}\n ]\n}}'


def measure(dataset: Dataset, *, workers: int, seed: int = 0) -> Fingerprint:
    """Measure every labelled case of a data set.

    Args:
        dataset: What :func:`seg_transfer.data.dataset.find_dataset` found; cases without a label are left out.
        workers: Processes; 0 measures in this one. Each holds one case at a time.
        seed: Of the foreground samples; the draw of a case depends on its identifier, not on its neighbours.

    Raises:
        UserError: If there is no labelled case, or a case cannot be read; the message names every such case.
    """
    cases = [case for case in dataset.cases if case.label is not None]
    if not cases:
        raise UserError("no case has a label", where=dataset.root, hint="planning needs at least one labelled case")
    samples = min(SAMPLES_PER_CASE, POOLED_SAMPLES // len(cases))
    function = partial(measure_case, dataset=dataset.select([]), samples=samples, seed=seed)
    measured: dict[str, CaseFingerprint] = {}
    drawn: dict[str, list[np.ndarray]] = {}
    failures: list[CaseFailure] = []
    for case, result in map_cases(function, cases, workers=workers, title="fingerprint", name=_case_id):
        if isinstance(result, CaseFailure):
            failures.append(result)
        else:
            measured[case.id], drawn[case.id] = result
    if failures:
        raise UserError(
            f"{len(failures)} case(s) cannot be measured: " + "; ".join(f"{f.case}: {f.cause}" for f in failures),
            where=dataset.root,
            hint="fix or remove these files",
        )
    order = [case.id for case in cases]
    intensities = [
        pool_intensity([drawn[case][channel] for case in order]) for channel in range(len(dataset.channel_names))
    ]
    return pool(dataset, [measured[case] for case in order], intensities, seed=seed)


def pool(
    dataset: Dataset, cases: list[CaseFingerprint], intensities: list[Intensity | None], *, seed: int
) -> Fingerprint:
    """Pool the measurements of the cases; ``intensities`` are the pooled foreground figures per channel."""
    channels = []
    for index, (name, intensity) in enumerate(zip(dataset.channel_names, intensities, strict=True)):
        each = [case.channels[index] for case in cases]
        channels.append(
            PooledChannel(
                name=name,
                dtypes=tuple(sorted({channel.dtype for channel in each})),
                minimum=min(channel.minimum for channel in each),
                maximum=max(channel.maximum for channel in each),
                outlier_ratio=rounded(np.median([channel.outlier_ratio for channel in each])),
                label_spread=label_spread(each),
                foreground=intensity,
            )
        )
    labels = []
    for index, (name, value) in enumerate(dataset.labels[1:]):
        held = [case.labels[index] for case in cases if case.labels[index].voxels]
        millilitres = [label.ml for label in held if label.ml is not None]
        labels.append(
            PooledLabel(
                name=name,
                value=value,
                cases=len(held),
                voxels=sum(label.voxels for label in held),
                median_ml=rounded(np.median(millilitres)) if millilitres else None,
            )
        )
    return Fingerprint(
        dataset=dataset.name,
        dimension=dataset.dimension,
        unit=dataset.unit,
        seed=seed,
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
    """Compare a channel's label means between cases; uniform images are left out.

    Returns:
        The spread, or None if no label is in two cases.
    """
    cases = [case for case in cases if case.std > 0]
    if len(cases) < 2:
        return None
    stored = np.array([case.label_means for case in cases], dtype=np.float64)
    stored = stored[:, (~np.isnan(stored)).sum(axis=0) > 1]
    if not stored.size:
        return None
    means, stds = np.array([(case.mean, case.std) for case in cases]).T
    within = np.sqrt(np.mean(stds**2))
    return LabelSpread(
        as_stored=rounded(_rms_between(stored) / within),
        zscore=rounded(_rms_between((stored - means[:, None]) / stds[:, None])),
    )


def _rms_between(means: np.ndarray) -> float:
    """Standard deviation over cases, root mean square over labels; ``(case, label)``, nan where a case has none."""
    return float(np.sqrt(np.mean(np.nanvar(means, axis=0))))


def _case_id(case: Case) -> str:
    return case.id


def _median(triples: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = (rounded(value) for value in np.median(triples, axis=0))
    return x, y, z
