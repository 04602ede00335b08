"""Where the content of a case lies on the network's grid, and the position of voxels in it.

A patch alone does not say which part of the body it shows, and instance norms remove what is constant in it. Position
maps do: along each axis 0 is the middle of the content, and -1 and 1 are its ends. Middle and ends are moments of
intensity, so that they follow the body and not the edge of the image, and are summed slab by slab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.util.records import Record

POSITION_MAPS = 4
"""Positions along (slice, u, v), and a map of ones where they are known; all are zero where they are not."""
SMALLEST_HALF = 0.5
Floats = tuple[float, float, float]
Halves = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Extent(Record):
    """The extent of a case's content, in voxels of (slice, u, v).

    Example:
        >>> extent = Extent.of(array)  # (channel, slice, u, v)
        >>> maps = extent.position((0, 10, 10), (8, 32, 32))  # (4, 8, 32, 32)
    """

    middle: Floats = Field(description="mean index, weighted by intensity above the channel's least one")
    half: Halves = Field(description="half of the length of a uniform content with the same standard deviation")

    @staticmethod
    def of(array: NDArray[np.float32]) -> Extent:
        """The extent of a whole case ``(channel, slice, u, v)``."""
        sums = ExtentSums(len(array), array.shape[1:])
        for channel, values in enumerate(array):
            sums.add(channel, 0, values)
        return sums.extent()

    def position(
        self,
        start: Sequence[int],
        size: Triple,
        *,
        shift: Sequence[float] = (0, 0, 0),
        scale: Sequence[float] = (1, 1, 1),
    ) -> NDArray[np.float32]:
        """Position maps of a box, which may reach beyond the case.

        Args:
            start: First voxel of the box.
            size: Size ``(slice, u, v)`` of the box.
            shift: Added to the positions along each axis.
            scale: Factor on the positions along each axis.

        Returns:
            ``(4, slice, u, v)``.
        """
        maps = np.ones((POSITION_MAPS, *size), np.float32)
        for axis, (first, length, middle, half, factor, offset) in enumerate(
            zip(start, size, self.middle, self.half, scale, shift, strict=True)
        ):
            line = (np.arange(first, first + length) - middle) / half * factor + offset
            maps[axis] = line.reshape([-1 if each == axis else 1 for each in range(3)])
        return maps


def position_maps(model: ModelPlan) -> int:
    """Number of channels of a network's input that follow those of the image."""
    return POSITION_MAPS if model.position else 0


def unknown_position(size: Triple) -> NDArray[np.float32]:
    """Position maps ``(4, slice, u, v)`` of a box whose position is not known."""
    return np.zeros((POSITION_MAPS, *size), np.float32)


class ExtentSums:
    """Sums of intensity along each axis, from slabs of a case.

    Args:
        channels: Number of channels.
        shape: ``(slice, u, v)``.
    """

    def __init__(self, channels: int, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self._sums = [[np.zeros(size) for size in shape] for _ in range(channels)]
        self._lowest = [math.inf] * channels

    def add(self, channel: int, start: int, slab: NDArray[np.float32], corner: tuple[int, int] = (0, 0)) -> None:
        """Add a part of a channel; each voxel once.

        Args:
            channel: The channel.
            start: First slice of the part.
            slab: The part ``(slice, u, v)``.
            corner: Its first voxel along u and v, if it does not hold whole slices.
        """
        self._lowest[channel] = min(self._lowest[channel], float(slab.min()))
        plane = slab.sum(axis=0)  # single precision for a few slices or a row, double precision for the rest
        slices, u, v = self._sums[channel]
        slices[start : start + len(slab)] += slab.sum(axis=2).sum(axis=1, dtype=np.float64)
        u[corner[0] : corner[0] + slab.shape[1]] += plane.sum(axis=1, dtype=np.float64)
        v[corner[1] : corner[1] + slab.shape[2]] += plane.sum(axis=0, dtype=np.float64)

    def extent(self) -> Extent:
        """The extent of everything that was added; that of the whole case if its content has no contrast."""
        middles, halves = [], []
        for axis, size in enumerate(self.shape):
            others = math.prod(self.shape) // size
            mass = np.zeros(size)
            for sums, lowest in zip(self._sums, self._lowest, strict=True):
                above = (sums[axis] - lowest * others).clip(min=0)
                if (total := above.sum()) > 0:
                    mass += above / total
            mass = mass / mass.sum() if mass.any() else np.full(size, 1 / size)
            index = np.arange(size)
            middle = float(mass @ index)
            middles.append(middle)
            halves.append(max(math.sqrt(3 * float(mass @ (index - middle) ** 2)), SMALLEST_HALF))
        return Extent(middle=(middles[0], middles[1], middles[2]), half=(halves[0], halves[1], halves[2]))
