"""Measurements of one case, and its foreground samples.

Arrays are in canonical order ``(x, y, z)`` (RAS). Intensities are as stored, before normalization.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import nibabel
import numpy as np
from pydantic import Field

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.duplicates import content_hash
from seg_transfer.data.formats import read_header
from seg_transfer.data.image import filled, read_image, read_label
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.util.records import Record

PERCENTILES = (0.005, 0.5, 0.995)


class Intensity(Record):
    """Statistics of the foreground voxels of one channel."""

    mean: float
    std: float
    median: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


class CaseChannel(Record):
    """One channel of one case."""

    dtype: str = Field(description="data type on disk")
    minimum: float = Field(description="over the whole image")
    maximum: float = Field(description="over the whole image")
    outlier_ratio: float = Field(
        description="range of the nonzero voxels over the range between their 0.5 and 99.5 percentiles; 1: no outliers"
    )
    mean: float = Field(description="over the whole image")
    std: float = Field(description="over the whole image")
    label_means: tuple[float | None, ...] = Field(
        description="of the background and of each label; None where the case has no such voxel"
    )
    foreground: Intensity | None = Field(description="None where the case has no foreground")


class LabelPosition(Record):
    """Where a label lies along one axis; 0 and 1 are the ends of the box around the nonzero voxels."""

    lower: float = Field(description="a quarter of the label's voxels lie below")
    upper: float = Field(description="a quarter of the label's voxels lie above")
    low_half: float = Field(ge=0, le=1, description="share of the label's voxels below 0.5")


class CaseLabel(Record):
    """One label of one case."""

    voxels: int
    ml: float | None = Field(description="None where the unit is the pixel")
    slices: Triple = Field(description="number of slices with the label, across each canonical axis (x, y, z)")
    positions: tuple[LabelPosition, LabelPosition, LabelPosition] | None = Field(
        description="along each canonical axis (x, y, z); None where the case does not hold the label"
    )

    @property
    def volume(self) -> float:
        """In ml; of 2D images in pixels."""
        return float(self.voxels) if self.ml is None else self.ml


class CaseFingerprint(Record):
    """One case."""

    id: str
    shape: Triple = Field(description="canonical (x, y, z), of the uncropped image")
    cropped_shape: Triple = Field(description="box around the voxels where any channel is nonzero")
    spacing: Spacing = Field(description="canonical (x, y, z), in the data set's unit")
    orientation: str = Field(description="directions of the file's axes, such as LPS")
    channels: tuple[CaseChannel, ...]
    labels: tuple[CaseLabel, ...] = Field(description="in the order of the data set's labels, without background")
    image_hash: str = Field(description="of the voxels of all channels in canonical order: equal for identical images")
    label_hash: str = Field(description="of the classes in canonical order")
    annotated: float = Field(default=1.0, gt=0, le=1, description="share of the voxels that are annotated")

    @property
    def crop_ratio(self) -> float:
        """Share of the voxels that cropping to nonzero keeps."""
        return float(np.prod(self.cropped_shape) / np.prod(self.shape))


def measure_case(case: Case, *, dataset: Dataset, samples: int, seed: int) -> tuple[CaseFingerprint, list[np.ndarray]]:
    """Measure one labelled case.

    Args:
        case: A case with a label.
        dataset: Its data set, for the mapping of labels; its cases are not used.
        samples: Largest number of foreground samples per channel.
        seed: Random seed; the draw depends on it and on the case's identifier alone.

    Returns:
        The measurements, and per channel the sampled foreground values ``(n,)``, float32.
    """
    assert case.label is not None
    image = read_image(case.images)
    if dataset.fill_nan:
        image = filled(image)
    label = read_label(case.label, grid=image.native, names=dataset.names)
    classes = dataset.classes(label).reshape(image.array.shape[1:])
    annotated = classes < len(dataset.labels)
    foreground = annotated & (classes > 0)
    dtypes = [str(read_header(path).dtype) for path in case.images]
    if len(dtypes) == 1:
        dtypes *= len(image.array)
    selection = _draw(int(foreground.sum()), samples, case.id, seed)
    spacing = (rounded(image.spacing[0]), rounded(image.spacing[1]), rounded(image.spacing[2]))
    voxel_ml = float(np.prod(spacing)) / 1000 if image.unit == "mm" else None
    box = nonzero_box(np.any(image.array != 0, axis=0))
    labels = tuple(_label(classes == index, voxel_ml, box) for index in range(1, len(dataset.labels)))
    voxels = [int(annotated.sum() - foreground.sum()), *(label.voxels for label in labels)]
    channels, sampled = [], []
    for array, dtype in zip(image.array, dtypes, strict=True):
        inside = array[foreground]
        sampled.append(inside[selection].astype(np.float32))
        nonzero = array[array != 0]
        mean, std = mean_and_std(array)
        channels.append(
            CaseChannel(
                dtype=dtype,
                minimum=rounded(array.min()),
                maximum=rounded(array.max()),
                outlier_ratio=outlier_ratio(nonzero) if nonzero.size else 1.0,
                mean=rounded(mean),
                std=rounded(std),
                label_means=_class_means(array, classes, voxels),
                foreground=pool_intensity([inside]),
            )
        )
    measured = CaseFingerprint(
        id=case.id,
        shape=image.array.shape[1:],
        cropped_shape=(len(box[0]), len(box[1]), len(box[2])),
        spacing=spacing,
        orientation="".join(nibabel.aff2axcodes(image.native.affine)),
        channels=tuple(channels),
        labels=labels,
        image_hash=content_hash(image.array),
        label_hash=content_hash(classes),
        annotated=float(annotated.mean()),
    )
    return measured, sampled


def _class_means(array: np.ndarray, classes: np.ndarray, voxels: Sequence[int]) -> tuple[float | None, ...]:
    """Mean of each class, of which ``voxels`` are the counts; one slab at a time."""
    sums = np.zeros(len(voxels))
    for slab, slab_classes in zip(array, classes, strict=True):
        sums += np.bincount(slab_classes.ravel(), weights=slab.ravel(), minlength=len(voxels))[: len(voxels)]
    return tuple(rounded(total / count) if count else None for total, count in zip(sums, voxels, strict=True))


def pool_intensity(groups: list[np.ndarray]) -> Intensity | None:
    """Statistics of all values; all groups have the same weight, whatever their size.

    Args:
        groups: Values ``(n,)``, one array per case; empty ones are ignored.

    Returns:
        The statistics, or None if every group is empty.
    """
    groups = [group for group in groups if group.size]
    if not groups:
        return None
    if len(groups) == 1:
        return _intensity(groups[0])
    values = np.concatenate(groups).astype(np.float64)
    weights = np.concatenate([np.full(group.size, 1 / (group.size * len(groups))) for group in groups])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    mean = float(weights @ values)
    percentiles = np.interp(PERCENTILES, np.cumsum(weights) - weights / 2, values)
    return _statistics(values, mean, float(weights @ (values - mean) ** 2) ** 0.5, percentiles)


def _intensity(values: np.ndarray) -> Intensity:
    """Statistics of one group: as for several, without weights."""
    values = np.sort(values)
    mean, std = mean_and_std(np.array_split(values, max(1, values.size // 2**20)))
    positions = np.clip(np.array(PERCENTILES) * values.size - 0.5, 0, values.size - 1)
    below = np.floor(positions).astype(np.int64)
    low, high = (values[np.minimum(below + step, values.size - 1)].astype(np.float64) for step in (0, 1))
    return _statistics(values, mean, std, low + (positions - below) * (high - low))


def mean_and_std(parts: np.ndarray | Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean and std of all values, in float64 for one part at a time to save memory."""
    count = sum(part.size for part in parts)
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
    return mean, (sum(float(((part - np.float64(mean)) ** 2).sum()) for part in parts) / count) ** 0.5


def _statistics(values: np.ndarray, mean: float, std: float, percentiles: np.ndarray) -> Intensity:
    low, median, high = percentiles
    return Intensity(
        mean=rounded(mean),
        std=rounded(std),
        median=rounded(median),
        minimum=rounded(values[0]),
        maximum=rounded(values[-1]),
        percentile_00_5=rounded(low),
        percentile_99_5=rounded(high),
    )


def outlier_ratio(values: np.ndarray) -> float:
    """Range of the values over the range between their 0.5 and 99.5 percentiles, at most a million.

    1 means no outliers; 10 means that min-max scaling would compress 99 % of the values into a tenth of its range.
    """
    low, high = np.percentile(values, [0.5, 99.5])
    extent = float(values.max()) - float(values.min())
    return rounded(extent / max(float(high - low), extent * 1e-6)) if extent else 1.0


def nonzero_box(nonzero: np.ndarray) -> tuple[range, range, range]:
    """Bounding box ``(x, y, z)`` of nonzero voxels; the whole image where there are none."""
    x, y, z = (np.flatnonzero(nonzero.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    if not x.size:
        return range(nonzero.shape[0]), range(nonzero.shape[1]), range(nonzero.shape[2])
    return range(x[0], x[-1] + 1), range(y[0], y[-1] + 1), range(z[0], z[-1] + 1)


def rounded(value: float) -> float:
    """Seven significant digits: the precision of float32, and half the size in JSON."""
    return float(f"{float(value):.7g}")


def _draw(count: int, samples: int, case: str, seed: int) -> np.ndarray | slice:
    if count <= samples:
        return slice(None)
    return np.random.default_rng([seed, zlib.crc32(case.encode())]).choice(count, size=samples, replace=False)


def _label(mask: np.ndarray, voxel_ml: float | None, box: tuple[range, range, range]) -> CaseLabel:
    in_planes = mask.sum(axis=2)
    x, y, z = in_planes.sum(axis=1), in_planes.sum(axis=0), mask.sum(axis=(0, 1))
    voxels = int(x.sum())
    return CaseLabel(
        voxels=voxels,
        ml=None if voxel_ml is None else rounded(voxels * voxel_ml),
        slices=(int((x > 0).sum()), int((y > 0).sum()), int((z > 0).sum())),
        positions=(_position(x, box[0]), _position(y, box[1]), _position(z, box[2])) if voxels else None,
    )


def _position(profile: np.ndarray, box: range) -> LabelPosition:
    """Position of a label along an axis, of which ``profile`` has the label's voxels in each slice."""
    below = np.concatenate([[0], profile.cumsum() / profile.sum()])
    lower, upper = ((np.searchsorted(below, share) - 0.5 - box.start) / len(box) for share in (0.25, 0.75))
    low_half = np.interp(box.start + len(box) / 2, np.arange(len(below)), below)
    return LabelPosition(lower=round(float(lower), 4), upper=round(float(upper), 4), low_half=round(float(low_half), 4))
