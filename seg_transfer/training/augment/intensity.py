"""Transforms of intensities, which leave labels alone: colour, noise, blur, contrast, resolution, gamma."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment.rows import per_sample, rows_of
from seg_transfer.training.augment.transform import Array, Draw, Mask, Transform

VOXELS = (2, 3, 4)  # axes of a batch
BATCH_RANK = 5
BLUR_SIGMAS = 3
"""Where the Gaussian is cut off."""
GAMMA_INVERTED = 0.25
"""Share of gamma transforms that are done on the negative."""
TINY = 1e-6


class IntensityTransform(Transform):
    """Changes intensities."""

    @abstractmethod
    def apply(self, image: Tensor) -> None:
        """Change ``(batch, channel, slice, u, v)`` in place."""


@dataclass(frozen=True)
class Colour(IntensityTransform):
    """Hue, saturation and value of colours in [0, 1], as min-max normalization gives them; grey stays grey.

    All three are one matrix on (red, green, blue): a rotation about the grey axis, a factor on the distance from it,
    and a factor on the whole. Values beyond [0, 1] are cut, as in an image file.

    Attributes:
        hue: ``(batch,)`` radians about the grey axis.
        saturation: ``(batch,)`` factor on the distance from grey.
        value: ``(batch,)`` factor on the colour as a whole.
    """

    hue: Array
    saturation: Array
    value: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        chosen = draw.chosen(plan.colour_probability)
        return cls(
            hue=draw.within(chosen, np.deg2rad(plan.hue_degrees)),
            saturation=draw.factor(chosen, plan.saturation_range),
            value=draw.factor(chosen, plan.value_range),
        )

    def apply(self, image: Tensor) -> None:
        rows = rows_of((self.hue != 0) | (self.saturation != 1) | (self.value != 1), image)
        if rows is not None:
            mixing = per_sample(self._matrices(), rows, rank=3)
            image[rows] = torch.einsum("rij,rj...->ri...", mixing, image[rows]).clamp(0, 1)

    def _matrices(self) -> Array:
        """``(batch, 3, 3)`` from (red, green, blue) to the same."""
        grey = np.full((3, 3), 1 / 3)
        across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # crosses a colour with the grey axis
        hue, saturation, value = (
            each.astype(np.float64)[:, None, None] for each in (self.hue, self.saturation, self.value)
        )
        turned = np.cos(hue) * (np.eye(3) - grey) + np.sin(hue) * across
        return (value * (grey + saturation * turned)).astype(np.float32)


@dataclass(frozen=True)
class Noise(IntensityTransform):
    """Gaussian noise.

    Attributes:
        amounts: ``(batch, channel)`` standard deviation over the channel's own; 0 is neutral.
        seed: Of the noise itself, which is drawn on the device.
    """

    amounts: Array
    seed: int

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        amounts = draw.amount(plan.noise_probability, (0.0, plan.noise_std), draw.channels)
        return cls(amounts, seed=int(draw.generator.integers(2**31)))

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.amounts > 0).any(axis=1), image)) is not None:
            generator = torch.Generator(image.device).manual_seed(self.seed)
            chosen = image[rows]
            noise = torch.randn(chosen.shape, generator=generator, device=image.device)
            spread = chosen.std(VOXELS, keepdim=True)
            image[rows] = chosen + noise * spread * per_sample(self.amounts, rows, rank=BATCH_RANK)


@dataclass(frozen=True)
class Blur(IntensityTransform):
    """Gaussian blur, one axis after the other; a sum of shifted copies needs no grouped convolution.

    Attributes:
        sigmas: ``(batch, channel)`` in voxels; 0 is neutral.
        axes: Of the batch: u and v, or all three.
    """

    sigmas: Array
    axes: tuple[int, ...] = VOXELS[1:]

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        sigmas = draw.amount(plan.blur_probability, plan.blur_sigma, draw.channels)
        return cls(sigmas, axes=VOXELS if plan.rotate_out_of_plane else VOXELS[1:])

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.sigmas > 0).any(axis=1), image)) is None:
            return
        radius = math.ceil(BLUR_SIGMAS * float(self.sigmas.max()))
        offsets = np.arange(-radius, radius + 1)
        kernels = np.exp(-0.5 * (offsets / np.maximum(self.sigmas, 1e-3)[..., None]) ** 2)
        kernels = (kernels / kernels.sum(axis=-1, keepdims=True)).astype(np.float32)
        chosen = image[rows]
        for axis in self.axes:
            length = chosen.shape[axis]
            positions = torch.arange(-radius, length + radius, device=image.device).clamp(0, length - 1)
            padded = chosen.index_select(axis, positions)
            chosen = torch.zeros_like(chosen)
            for tap in range(len(offsets)):
                weight = per_sample(kernels[..., tap], rows, rank=BATCH_RANK)
                chosen.addcmul_(padded.narrow(axis, tap, length), weight)
        image[rows] = chosen


@dataclass(frozen=True)
class Brightness(IntensityTransform):
    """A factor on every intensity.

    Attributes:
        factors: ``(batch, channel)``.
    """

    factors: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.factor(plan.brightness_probability, plan.brightness_range, draw.channels))

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.factors != 1).any(axis=1), image)) is not None:
            image[rows] = image[rows] * per_sample(self.factors, rows, rank=BATCH_RANK)


@dataclass(frozen=True)
class Contrast(IntensityTransform):
    """A factor on the distance from the mean; intensities stay within the range that they had.

    Attributes:
        factors: ``(batch, channel)``.
    """

    factors: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        return cls(draw.factor(plan.contrast_probability, plan.contrast_range, draw.channels))

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.factors != 1).any(axis=1), image)) is not None:
            chosen = image[rows]
            lowest, highest, mean = chosen.amin(VOXELS, True), chosen.amax(VOXELS, True), chosen.mean(VOXELS, True)
            stretched = (chosen - mean) * per_sample(self.factors, rows, rank=BATCH_RANK) + mean
            image[rows] = stretched.clamp(lowest, highest)


@dataclass(frozen=True)
class LowResolution(IntensityTransform):
    """Voxels are averaged to a coarser grid and interpolated back: what a thicker slice or a worse lens shows.

    Attributes:
        kept: ``(batch, 3)`` share of the resolution that is kept along (slice, u, v); 1 is neutral.
    """

    kept: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        kept = np.ones((draw.batch, 3), np.float32)
        kept[:, list(plan.low_resolution_axes)] -= draw.amount(
            plan.low_resolution_probability, (0, 1 - plan.low_resolution_least), 1
        )
        return cls(kept)

    def apply(self, image: Tensor) -> None:
        shape = image.shape[2:]
        for sample in np.flatnonzero((self.kept != 1).any(axis=1)).tolist():
            coarse = [max(1, round(size * float(share))) for size, share in zip(shape, self.kept[sample], strict=True)]
            reduced = functional.interpolate(image[sample : sample + 1], size=coarse, mode="area")
            image[sample : sample + 1] = functional.interpolate(reduced, size=shape, mode="trilinear")


@dataclass(frozen=True)
class Gamma(IntensityTransform):
    """A power of the range from minimum to maximum; mean and standard deviation stay.

    Attributes:
        exponents: ``(batch, channel)``; 1 is neutral.
        inverted: ``(batch, channel)``: done on the negative.
    """

    exponents: Array
    inverted: Mask

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        exponents = draw.factor(plan.gamma_probability, plan.gamma_range, draw.channels)
        return cls(exponents, inverted=draw.generator.random(exponents.shape) < GAMMA_INVERTED)

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.exponents != 1).any(axis=1), image)) is None:
            return
        sign = 1 - 2 * per_sample(self.inverted, rows, rank=BATCH_RANK).float()
        chosen = image[rows] * sign
        lowest, mean, spread = chosen.amin(VOXELS, True), chosen.mean(VOXELS, True), chosen.std(VOXELS, keepdim=True)
        width = (chosen.amax(VOXELS, True) - lowest).clamp(min=TINY)
        curved = ((chosen - lowest) / width).pow(per_sample(self.exponents, rows, rank=BATCH_RANK))
        centred = curved - curved.mean(VOXELS, True)
        curved = centred / centred.std(VOXELS, keepdim=True).clamp(min=TINY) * spread + mean
        image[rows] = curved * sign


INTENSITY: tuple[type[IntensityTransform], ...] = (Colour, Noise, Blur, Brightness, Contrast, LowResolution, Gamma)
"""In the order in which they are applied."""
