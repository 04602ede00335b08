"""Measurements of one case.

Arrays are in canonical order ``(x, y, z)`` (RAS). Intensities are as stored, before normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
from pydantic import Field

from seg_transfer.data.checks import CheckedCase
from seg_transfer.data.duplicates import content_hash
from seg_transfer.planning.distribution import Distribution, Sketch
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.util.memory_order import MemoryOrder, blocks
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


def measure_case(case: CheckedCase, *, labels: int) -> tuple[CaseFingerprint, list[Sketch | None]]:
    """Measure one case without problems.

    Args:
        case: Its images and classes; from ``labels`` on, classes are not annotated.
        labels: Number of the data set's labels, with background.

    Returns:
        The measurements, and per channel the intensities of the foreground; None without foreground.
    """
    image, classes = case.images[0], case.classes
    spacing = (rounded(image.spacing[0]), rounded(image.spacing[1]), rounded(image.spacing[2]))
    voxel_ml = float(np.prod(spacing)) / 1000 if image.unit == "mm" else None
    arrays = [array for each in case.images for array in each.array]
    dtypes = [str(each.dtype) for each in case.images for _ in each.array]
    box = nonzero_box(arrays)
    profiles = _profiles(classes, labels)
    channels, sketches = [], []
    for array, dtype in zip(arrays, dtypes, strict=True):
        found = _intensities(array, classes, labels)
        foreground = found.foreground if found.foreground.size else None
        mean, std = found.image.mean_and_std()
        sketches.append(None if foreground is None else Sketch.of(foreground))
        channels.append(
            CaseChannel(
                dtype=dtype,
                minimum=rounded(found.image.values[0]),
                maximum=rounded(found.image.values[-1]),
                outlier_ratio=outlier_ratio(found.image.without_zero()),
                mean=rounded(mean),
                std=rounded(std),
                label_means=found.label_means,
                foreground=None if foreground is None else intensity_of(foreground),
            )
        )
    annotated = sum(int(profile[0].sum()) for profile in profiles[:labels])
    measured = CaseFingerprint(
        id=case.id,
        shape=classes.shape,
        cropped_shape=(len(box[0]), len(box[1]), len(box[2])),
        spacing=spacing,
        orientation="".join(nibabel.aff2axcodes(image.native.affine)),
        channels=tuple(channels),
        labels=tuple(_label(profile, voxel_ml, box) for profile in profiles[1:labels]),
        image_hash=content_hash(arrays),
        label_hash=content_hash([classes]),
        annotated=annotated / classes.size,
    )
    return measured, sketches


@dataclass(frozen=True)
class _Intensities:
    """One channel: distributions over the whole image and over its foreground, and the mean of each class."""

    image: Distribution
    foreground: Distribution
    label_means: tuple[float | None, ...]


def _intensities(array: np.ndarray, classes: np.ndarray, labels: int) -> _Intensities:
    """Measure a channel: integers of up to 16 bits by counting each value, all others by sorting."""
    order = MemoryOrder.of(array)
    counted = array.dtype.kind in "iu" and array.dtype.itemsize <= 2
    lowest = int(array.min()) if counted else 0
    span = int(array.max()) - lowest + 1 if counted else 0
    counts, counts_inside = np.zeros(span, np.int64), np.zeros(span, np.int64)
    inside: list[np.ndarray] = []
    total, of_classes, voxels = 0.0, np.zeros(labels + 1), np.zeros(labels + 1, np.int64)
    for _, (values, kinds) in blocks(order.view(array), order.view(classes)):
        values, kinds = values.reshape(-1), kinds.reshape(-1)
        labelled = np.flatnonzero(kinds != 0)  # of truth values: five times as fast
        kinds = kinds[labelled]
        seen = values[labelled]
        voxels += np.bincount(kinds, minlength=labels + 1)
        of_classes += np.bincount(kinds, weights=seen, minlength=labels + 1)
        seen = seen[kinds < labels]
        if counted:
            counts += np.bincount(np.subtract(values, lowest, dtype=np.int64), minlength=span)
            counts_inside += np.bincount(np.subtract(seen, lowest, dtype=np.int64), minlength=span)
        else:
            total += float(values.sum(dtype=np.float64))
            inside.append(seen)
    if counted:
        image, foreground = (Distribution.of_counts(each, lowest) for each in (counts, counts_inside))
        total = float(image.values @ image.counts)
    else:
        image = Distribution(np.sort(array, axis=None))
        foreground = Distribution(np.sort(np.concatenate(inside)))
    voxels[0] = array.size - voxels.sum()
    of_classes[0] = total - of_classes.sum()
    means = tuple(
        rounded(sum_ / count) if count else None
        for sum_, count in zip(of_classes[:labels], voxels[:labels], strict=True)
    )
    return _Intensities(image, foreground, means)


def intensity_of(values: Distribution) -> Intensity:
    """Statistics of at least one value."""
    mean, std = values.mean_and_std()
    positions = np.clip(np.array(PERCENTILES) * values.size - 0.5, 0, values.size - 1)
    return _intensity(mean, std, values.values[0], values.values[-1], values.at(positions).tolist())


def intensity_of_sketch(sketch: Sketch) -> Intensity:
    """Statistics over the cases of a sketch, each with the same weight, whatever the size of its foreground."""
    percentiles = sketch.percentiles(PERCENTILES)
    return _intensity(sketch.mean, sketch.variance**0.5, sketch.least, sketch.largest, percentiles)


def _intensity(mean: float, std: float, least: float, largest: float, percentiles: Sequence[float]) -> Intensity:
    low, median, high = percentiles
    return Intensity(
        mean=rounded(mean),
        std=rounded(std),
        median=rounded(median),
        minimum=rounded(least),
        maximum=rounded(largest),
        percentile_00_5=rounded(low),
        percentile_99_5=rounded(high),
    )


def outlier_ratio(values: Distribution) -> float:
    """Range of the values over the range between their 0.5 and 99.5 percentiles, at most a million.

    1 means no outliers; 10 means that min-max scaling would compress 99 % of the values into a tenth of its range.
    """
    if not values.size:
        return 1.0
    low, high = values.at(np.array([0.005, 0.995]) * (values.size - 1))
    extent = float(values.values[-1]) - float(values.values[0])
    return rounded(extent / max(float(high - low), extent * 1e-6)) if extent else 1.0


def nonzero_box(channels: Sequence[np.ndarray]) -> tuple[range, range, range]:
    """Bounding box ``(x, y, z)`` of the voxels where any channel is not zero; the whole image where there are none."""
    return _box_along(channels, 0), _box_along(channels, 1), _box_along(channels, 2)


def _box_along(channels: Sequence[np.ndarray], axis: int) -> range:
    """The box along one axis: slices are looked at from both ends, so that a whole image takes no time."""
    length = channels[0].shape[axis]

    def holds(index: int) -> bool:
        return any(bool(np.moveaxis(channel, axis, 0)[index].any()) for channel in channels)

    first = next((index for index in range(length) if holds(index)), None)
    if first is None:
        return range(length)
    return range(first, next(index for index in reversed(range(length)) if holds(index)) + 1)


def rounded(value: float) -> float:
    """Seven significant digits: the precision of float32, and half the size in JSON."""
    return float(f"{float(value):.7g}")


def _profiles(classes: np.ndarray, labels: int) -> list[tuple[np.ndarray, ...]]:
    """Voxels of each class, and of the voxels that are not annotated, in every slice across x, y and z."""
    order = MemoryOrder.of(classes)
    view = order.view(classes)
    found = [np.zeros((labels + 1, length), np.int64) for length in view.shape]
    for start, (block,) in blocks(view):
        flat = block.reshape(-1)
        labelled = np.flatnonzero(flat != 0)
        kinds = flat[labelled].astype(np.int64)
        rows, last = np.divmod(labelled, block.shape[2])
        first, middle = np.divmod(rows, block.shape[1])
        for counts, index in zip(found, (first + start, middle, last), strict=True):
            length = counts.shape[1]
            counts += np.bincount(kinds * length + index, minlength=counts.size).reshape(counts.shape)
    for axis, counts in enumerate(found):
        counts[0] = view.size // view.shape[axis] - counts[1:].sum(axis=0)
    along: dict[int, np.ndarray] = {}
    for axis, backwards, counts in zip(order.axes, order.backwards, found, strict=True):
        along[axis] = counts[:, ::-1] if backwards else counts
    return [(along[0][kind], along[1][kind], along[2][kind]) for kind in range(labels + 1)]


def _label(profiles: tuple[np.ndarray, ...], voxel_ml: float | None, box: tuple[range, range, range]) -> CaseLabel:
    x, y, z = profiles
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
