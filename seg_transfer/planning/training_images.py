"""What the training images were like, by which images at prediction are recognised as different.

The plan keeps it apart from its three parts: it decides nothing in training. Figures describe one channel of one image:
its mean and standard deviation over the data set's typical standard deviation, and three that do not depend on the
scale: mean, minimum and maximum in the image's own standard deviations. Predicted label maps are compared with the
labels' volumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from seg_transfer.util.records import Record

PRIOR_CASES = 4
"""The prior weighs as much as so many cases: with few cases it decides, with many their own spread."""


class Spread(Record):
    """One figure over the training cases."""

    mean: float
    std: float = Field(gt=0, description="of a further case: includes a prior, which weighs as four cases")
    lowest: float
    highest: float


class ChannelSpread(Record):
    """Intensities of one channel in the training images."""

    scale: float = Field(gt=0, description="median of the images' standard deviations")
    figures: tuple[Spread, Spread, Spread, Spread, Spread] = Field(
        description="asinh(mean / scale), log(std / scale), asinh(mean / std), asinh(minimum / std), "
        "log(1 + (maximum - mean) / std)"
    )


class LabelVolume(Record):
    """Volumes of one label."""

    name: str
    cases: int = Field(ge=0, description="training cases that hold the label")
    volume: Spread | None = Field(description="log of its volume in ml; None in pixels, and where no case holds it")


class TrainingImages(Record):
    """The training images in figures that tell nothing about a single one."""

    cases: int = Field(ge=1)
    degrees: int = Field(ge=1, description="degrees of freedom of the spreads")
    channels: tuple[ChannelSpread, ...]
    spacing: tuple[Spread, ...] = Field(description="log of the spacing along x, y and, in volumes, z")
    size: tuple[Spread, ...] = Field(description="log of voxels times spacing along x, y and, in volumes, z")
    orientations: tuple[str, ...] = Field(description="directions of the files' axes, such as LPS")
    labels: tuple[LabelVolume, ...] = Field(default=(), description="without background; empty: not known")


@dataclass(frozen=True)
class ChannelMeasures:
    """Intensities of one channel of one image, over all its voxels."""

    minimum: float
    maximum: float
    mean: float
    std: float

    def figures(self, scale: float) -> tuple[float, float, float, float, float]:
        """The figures of :class:`ChannelSpread`; a constant image counts as one with hardly any contrast.

        Args:
            scale: Typical standard deviation of the channel.
        """
        std = max(self.std, 1e-6 * scale)
        return (
            math.asinh(self.mean / scale),
            math.log(std / scale),
            math.asinh(self.mean / std),
            math.asinh(self.minimum / std),
            math.log1p(max(0.0, self.maximum - self.mean) / std),
        )


@dataclass(frozen=True)
class ImageMeasures:
    """What is compared of one image.

    Attributes:
        channels: Per channel.
        spacing: Canonical ``(x, y, z)``.
        shape: Canonical ``(x, y, z)``.
        orientation: Directions of the file's axes, such as LPS; None for an array in memory.
    """

    channels: tuple[ChannelMeasures, ...]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    orientation: str | None

    def log_spacing(self, axes: int) -> tuple[float, ...]:
        """Log of the spacing along the first axes."""
        return tuple(math.log(self.spacing[axis]) for axis in range(axes))

    def log_size(self, axes: int) -> tuple[float, ...]:
        """Log of the extent along the first axes."""
        return tuple(math.log(self.spacing[axis] * self.shape[axis]) for axis in range(axes))
