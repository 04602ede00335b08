"""Augmentation for pretraining: random crops and changes of brightness and colour, drawn first and applied to a batch.

Scans have no colour, any contrast and polarity (air is black in CT; fluid is bright or dark with the MR sequence) and
any orientation. So ``scans`` turns most images grey, changes contrast and gamma, inverts some, mirrors both ways and
rotates. ``photos`` is what the bundled weights were trained with. Which of the two is better for segmentation has not
been measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""
AREA = (0.35, 1.0)
"""Share of the image that a crop covers."""
ASPECT = (3 / 4, 4 / 3)
"""Width over height of a crop, as in Szegedy et al., CVPR 2015."""


@dataclass(frozen=True)
class AugmentationRanges:
    """Shares and ranges of the random changes.

    Attributes:
        grey: Share of images that are turned grey.
        inverted: Share of images that are inverted.
        brightness: Values are multiplied by up to 1 ± this.
        tint: Each channel is also multiplied by up to 1 ± this, as stains and lamps differ.
        contrast: Differences from the image's mean are multiplied by up to 1 ± this.
        gamma: Values are raised to a power from 1 / (1 + this) to 1 + this.
        rotation: Largest angle in degrees.
        upside_down: Whether half of the images are mirrored vertically; half are always mirrored horizontally.
    """

    grey: float
    inverted: float = 0.0
    brightness: float = 0.4
    tint: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    rotation: float = 0.0
    upside_down: bool = False

    def __str__(self) -> str:
        flips = "flips both ways" if self.upside_down else "flips"
        parts = ["random resized crops (area 0.35 to 1)", flips]
        parts += [f"rotations by up to {self.rotation:g} degrees"] * (self.rotation > 0)
        changed = ("brightness", "tint", "contrast", "gamma")
        parts += [f"{name} ± {getattr(self, name):g}" for name in changed if getattr(self, name)]
        parts += [f"{self.grey:.0%} of the images in grey"]
        parts += [f"{self.inverted:.0%} inverted"] * (self.inverted > 0)
        return ", ".join(parts)


RANGES = {
    "scans": AugmentationRanges(
        grey=0.75, inverted=0.2, brightness=0.3, tint=0.2, contrast=0.4, gamma=0.5, rotation=30, upside_down=True
    ),
    "photos": AugmentationRanges(grey=1 / 3),
}


@dataclass(frozen=True)
class ImageChanges:
    """The random changes of each image of a batch.

    Attributes:
        affine: ``(n, 2, 3)``: position in the result -> position in the source, both from -1 to 1, columns first.
        grey: ``(n,)`` bool.
        inverted: ``(n,)`` bool.
        gain: ``(n, 3)``, factor of each channel.
        contrast: ``(n,)``, factor of the differences from the mean.
        gamma: ``(n,)``, exponent.
    """

    affine: Tensor
    grey: Tensor
    inverted: Tensor
    gain: Tensor
    contrast: Tensor
    gamma: Tensor

    def to(self, device: torch.device) -> ImageChanges:
        """A copy on a device."""
        return ImageChanges(**{name: values.to(device) for name, values in vars(self).items()})


def draw(count: int, ranges: AugmentationRanges, generator: torch.Generator) -> ImageChanges:
    """Draw the changes of ``count`` images."""

    def uniform(lower: float, upper: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(lower, upper, generator=generator)

    def chosen(share: float) -> Tensor:
        return torch.rand(count, generator=generator) < share

    def sign(mirrored: bool) -> Tensor:
        return 1 - 2 * chosen(0.5 if mirrored else 0.0).float()

    narrow, wide = ASPECT
    area, aspect = uniform(*AREA), uniform(math.log(narrow), math.log(wide)).exp()
    width, height = ((area * ratio).sqrt().clamp(max=1) for ratio in (aspect, 1 / aspect))
    column, row = ((1 - size) * uniform(-1, 1) for size in (width, height))
    angle = torch.deg2rad(uniform(-ranges.rotation, ranges.rotation))
    cosine, sine = angle.cos(), angle.sin()
    width, height = width * sign(True), height * sign(ranges.upside_down)
    affine = torch.stack([cosine * width, -sine * height, column, sine * width, cosine * height, row], dim=1)
    gain = uniform(1 - ranges.brightness, 1 + ranges.brightness, 1)
    power = math.log1p(ranges.gamma)
    return ImageChanges(
        affine=affine.view(count, 2, 3),
        grey=chosen(ranges.grey),
        inverted=chosen(ranges.inverted),
        gain=gain * uniform(1 - ranges.tint, 1 + ranges.tint, 3),
        contrast=uniform(1 - ranges.contrast, 1 + ranges.contrast),
        gamma=uniform(-power, power).exp(),
    )


def apply(images: Tensor, changes: ImageChanges, side: int) -> Tensor:
    """Crop, resize and change images.

    Args:
        images: ``(n, 3, row, column)`` uint8.
        changes: The changes, on the same device.
        side: Side of the result in pixels.

    Returns:
        ``(n, 3, side, side)`` from 0 to 1, float32.
    """
    grid = functional.affine_grid(changes.affine, [len(images), 3, side, side], align_corners=False)
    x = functional.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    luminance = torch.tensor(LUMINANCE, device=x.device).view(1, 3, 1, 1)
    x = torch.where(_each(changes.grey), (x * luminance).sum(1, keepdim=True), x)
    x = torch.where(_each(changes.inverted), 1 - x, x).clamp_(0, 1) ** _each(changes.gamma)
    mean = x.mean((1, 2, 3), keepdim=True)
    return (((x - mean) * _each(changes.contrast) + mean) * changes.gain[..., None, None]).clamp_(0, 1)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
