"""The transform of an image that is larger than memory, and its parts on the network's grid.

It is measured in one pass over its chunks. What a part becomes is what
:meth:`~seg_transfer.preprocessing.case_transform.CaseTransform.image` makes of the whole image, up to the rounding of
its mean and standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.chunked_image import ChunkedImage, boxes
from seg_transfer.data.geometry import Box
from seg_transfer.planning.counted import Moments
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.distribution import mean_and_std
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.training_images import ChannelMeasures, ImageMeasures
from seg_transfer.preprocessing.case_transform import (
    CaseTransform,
    check_image,
    needs_nonzero,
    nonzero_voxels,
    not_finite,
)
from seg_transfer.preprocessing.extent import Extent, ExtentSums
from seg_transfer.preprocessing.normalize import Scaling
from seg_transfer.preprocessing.resample import PartResampling, bounding_box

EXTENT_VOXELS = 2**24
"""Voxels of the network's grid that the pass for the extent has in memory."""
PIECE_VOXELS, PIECE_STEP = 2**24, 16
"""Voxels of the image that are read and resampled at a time, and the step of their edges on the network's grid."""


@dataclass(frozen=True)
class Intensities:
    """Moments and range of voxels."""

    moments: Moments = field(default_factory=Moments)
    lowest: float = math.inf
    highest: float = -math.inf

    @classmethod
    def of(cls, values: NDArray) -> Intensities:
        """Those of an array."""
        if not values.size:
            return cls()
        mean, std = mean_and_std([values])
        moments = Moments(count=values.size, mean=mean, squares=std**2 * values.size)
        return cls(moments, float(values.min()), float(values.max()))

    @classmethod
    def of_zeros(cls, count: int) -> Intensities:
        """Those of so many zeros."""
        return cls(Moments(count=count), 0.0, 0.0) if count else cls()

    def __add__(self, other: Intensities) -> Intensities:
        lowest, highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        return Intensities(self.moments + other.moments, lowest, highest)

    @property
    def count(self) -> int:
        """Number of voxels."""
        return self.moments.count

    @property
    def mean(self) -> float:
        """Mean; 0 for no voxels."""
        return self.moments.mean

    @property
    def std(self) -> float:
        """Standard deviation; 1 for no voxels, as for a whole image."""
        return math.sqrt(self.moments.variance) if self.count else 1.0


class ChunkedCase:
    """One case in its files.

    Args:
        image: The image.
        data: The plan's data part.

    Attributes:
        image: The image.
        transform: Its transform.
        measures: What is compared with the training images.

    Raises:
        UserError: As :meth:`CaseTransform.fit` does, or if a chunk is damaged.
    """

    def __init__(self, image: ChunkedImage, data: DataPlan) -> None:
        check_image(image.native, image.channels, data)
        self.image = image
        shape = image.native.shape
        by_zero = needs_nonzero(data)
        kept, box = _measure(image, by_zero=by_zero, fill=data.fill_nan)
        voxels = math.prod(shape)
        box = (box if data.crop_nonzero else None) or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        inside = math.prod(part.stop - part.start for part in box)
        scalings, self._limits = [], []
        for channel_values, channel in zip(kept, data.channels, strict=True):
            cropped = channel_values + Intensities.of_zeros(inside - channel_values.count)
            masked = channel.normalization.mask
            chosen = channel_values if masked else cropped
            scaling = Scaling.of(channel.normalization, chosen.mean, chosen.std)
            scalings.append(scaling)
            ends = np.array([chosen.lowest, chosen.highest][: chosen.count]).astype(image.dtype)
            normalized = scaling.apply(ends, np.ones(len(ends), bool)).tolist()
            normalized += [0.0] if masked and inside > channel_values.count else []
            self._limits.append((np.float32(min(normalized)), np.float32(max(normalized))))
        self.transform = CaseTransform.of(image.native, box, scalings, data)
        whole = [each + Intensities.of_zeros(voxels - each.count) for each in kept]
        self.measures = ImageMeasures(
            tuple(ChannelMeasures(each.lowest, each.highest, each.mean, each.std) for each in whole),
            image.native.spacing,
            shape,
            image.native.orientation,
        )

    def part(self, box: Box) -> NDArray[np.float32]:
        """The network's input ``(channel, slice, u, v)`` in a box of ``(slice, u, v)``."""
        shape = _size(box)
        result = np.empty((self.image.channels, *shape), np.float32)
        for piece in boxes(shape, (PIECE_STEP,) * 3, self._is_read_at_once):
            self._fill(result[:, *piece], _moved(piece, box))
        return result

    def _is_read_at_once(self, size: Triple) -> bool:
        sizes = zip(size, self.transform.shape, self.transform.cropped_shape, strict=True)
        return math.prod(math.ceil(each * cropped / after) for each, after, cropped in sizes) <= PIECE_VOXELS

    def _fill(self, result: NDArray[np.float32], box: Box) -> None:
        transform = self.transform
        resampling = PartResampling(transform.cropped_shape, transform.shape, transform.image_orders, box)
        values = self.image.read(transform.canonical_box(resampling.source))
        values = values.transpose(0, *(1 + axis for axis in transform.axes))
        masked = any(scaling.mask for scaling in transform.scalings)
        nonzero = nonzero_voxels(values) if masked else None
        clipped = 3 in transform.image_orders
        for channel, (scaling, limits) in enumerate(zip(transform.scalings, self._limits, strict=True)):
            normalized = scaling.apply(values[channel], nonzero)
            result[channel] = resampling(normalized, limits if clipped else None)

    @cached_property
    def extent(self) -> Extent:
        """Where the content lies on the network's grid; that takes another pass."""
        shape = self.transform.shape
        sums = ExtentSums(len(self.transform.scalings), shape)
        for box in boxes(shape, (PIECE_STEP,) * 3, lambda size: math.prod(size) <= EXTENT_VOXELS):
            for channel, values in enumerate(self.part(box)):
                sums.add(channel, box[0].start, values, (box[1].start, box[2].start))
        return sums.extent()


def _size(box: Box) -> Triple:
    s, u, v = (part.stop - part.start for part in box)
    return s, u, v


def _moved(box: Box, origin: Box) -> Box:
    """A box of a box as one of the whole."""
    s, u, v = (slice(at.start + part.start, at.start + part.stop) for part, at in zip(box, origin, strict=True))
    return s, u, v


def _measure(image: ChunkedImage, *, by_zero: bool, fill: bool) -> tuple[list[Intensities], Box | None]:
    """Intensities of each channel's voxels, by zero only of those that any channel has nonzero, and the box of these.

    Raises:
        UserError: If values are not finite and are not filled.
    """
    kept = [Intensities() for _ in range(image.channels)]
    lowest, broken = np.full(image.channels, math.inf), False
    starts: list[list[int]] = []
    stops: list[list[int]] = []
    for box, values in image.parts():
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                if not fill:
                    raise not_finite()
                broken = True
            least = np.where(finite, values, math.inf).min(axis=(1, 2, 3))
            lowest = np.minimum(lowest, least)
        if broken:
            continue  # what replaces the values is known after this pass
        mask = nonzero_voxels(values) if by_zero else None
        if mask is not None and (found := bounding_box(mask)) is not None:
            starts.append([part.start + inner.start for part, inner in zip(box, found, strict=True)])
            stops.append([part.start + inner.stop for part, inner in zip(box, found, strict=True)])
        kept = [
            sums + Intensities.of(channel if mask is None else channel[mask])
            for sums, channel in zip(kept, values, strict=True)
        ]
    if broken:
        image.fill = np.where(np.isfinite(lowest), lowest, 0)
        return _measure(image, by_zero=by_zero, fill=fill)
    if not starts:
        return kept, None
    x, y, z = map(slice, np.min(starts, axis=0).tolist(), np.max(stops, axis=0).tolist())
    return kept, (x, y, z)
