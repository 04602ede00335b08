"""Transforms of intensities: colour, noise, blur, brightness, contrast, resolution, gamma. Labels stay."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment.transform import Array, Draw, Mask, Transform, per_sample, rows_of

VOXELS = (2, 3, 4)  # axes of a batch
BATCH_RANK = 5
BLUR_SIGMAS = 3
"""Radius of the Gaussian kernel in standard deviations."""
GAMMA_INVERTED = 0.25
"""Share of gamma transforms that are applied to the negative."""
TINY = 1e-6


class IntensityTransform(Transform):
    """Changes intensities."""

    @abstractmethod
    def apply(self, image: Tensor) -> None:
        """Change ``(batch, channel, slice, u, v)`` in place."""


@dataclass(frozen=True)
class Colour(IntensityTransform):
    """Hue, saturation and value of RGB in [0, 1], as min-max normalization gives it; grey stays grey.

    All three are one matrix on (red, green, blue). Results are clipped to [0, 1].

    Attributes:
        hue: ``(batch,)`` rotation about the grey axis in radians.
        saturation: ``(batch,)`` factor on the distance from the grey axis.
        value: ``(batch,)`` factor on the whole colour.
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
        """``(batch, 3, 3)`` on (red, green, blue)."""
        grey = np.full((3, 3), 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # cross product with the grey axis
        hue, saturation, value = (
            each.astype(np.float64)[:, None, None] for each in (self.hue, self.saturation, self.value)
        )
        rotated = np.cos(hue) * (np.eye(3) - grey) + np.sin(hue) * cross
        return (value * (grey + saturation * rotated)).astype(np.float32)


@dataclass(frozen=True)
class Noise(IntensityTransform):
    """Gaussian noise.

    Attributes:
        amounts: ``(batch, channel)`` standard deviation over that of the channel; 0 is neutral.
        seed: Random seed of the noise, which is drawn on the device.
        whole: Amounts of the whole batch, for a share of it.
        mine: ``(whole batch,)``: the samples of the share.
    """

    amounts: Array
    seed: int
    whole: Array | None = None
    mine: Mask | None = None

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        amounts = draw.amount(plan.noise_probability, (0.0, plan.noise_std), draw.channels)
        return cls(amounts, seed=int(draw.generator.integers(2**31)))

    def share(self, rows: slice) -> Self:
        mine = np.zeros(len(self.amounts), bool)
        mine[rows] = True
        return replace(self, amounts=self.amounts[rows], whole=self.amounts, mine=mine)

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.amounts > 0).any(axis=1), image)) is not None:
            generator = torch.Generator(image.device).manual_seed(self.seed)
            chosen = image[rows]
            noise = self._draw(chosen.shape, generator)
            spread = chosen.std(VOXELS, keepdim=True)
            image[rows] = chosen + noise * spread * per_sample(self.amounts, rows, rank=BATCH_RANK)

    def _draw(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Noise of this shape; a share of a batch takes its samples from the noise of the whole batch."""
        if self.whole is None or self.mine is None:
            return torch.randn(shape, generator=generator, device=generator.device)
        noisy = (self.whole > 0).any(axis=1)
        noise = torch.randn((int(noisy.sum()), *shape[1:]), generator=generator, device=generator.device)
        return noise[torch.from_numpy(np.flatnonzero(self.mine[noisy])).to(noise.device)]


@dataclass(frozen=True)
class Blur(IntensityTransform):
    """Gaussian blur, axis by axis, as a sum of shifted copies.

    Attributes:
        sigmas: ``(batch, channel)`` in voxels; 0 is neutral.
        axes: Axes of the batch: u and v, or all three.
        widest: Largest sigma of the whole batch, for a share of it: it decides the kernels' radius.
    """

    sigmas: Array
    axes: tuple[int, ...] = VOXELS[1:]
    widest: float = 0.0

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        sigmas = draw.amount(plan.blur_probability, plan.blur_sigma, draw.channels)
        return cls(sigmas, axes=VOXELS if plan.rotate_out_of_plane else VOXELS[1:])

    def share(self, rows: slice) -> Self:
        return replace(super().share(rows), widest=float(self.sigmas.max()))

    def apply(self, image: Tensor) -> None:
        if (rows := rows_of((self.sigmas > 0).any(axis=1), image)) is None:
            return
        radius = math.ceil(BLUR_SIGMAS * max(float(self.sigmas.max()), self.widest))
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
    """A factor on the distance from the mean; results are clipped to the original range.

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
    """Averaging to a coarser grid and linear interpolation back.

    Attributes:
        shares: ``(batch, 3)`` share of the resolution that remains along (slice, u, v); 1 is neutral.
    """

    shares: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        shares = np.ones((draw.batch, 3), np.float32)
        shares[:, list(plan.low_resolution_axes)] -= draw.amount(
            plan.low_resolution_probability, (0, 1 - plan.low_resolution_least), 1
        )
        return cls(shares)

    def apply(self, image: Tensor) -> None:
        shape = image.shape[2:]
        for sample in np.flatnonzero((self.shares != 1).any(axis=1)).tolist():
            shares = self.shares[sample].tolist()
            coarse = [max(1, round(size * share)) for size, share in zip(shape, shares, strict=True)]
            reduced = functional.interpolate(image[sample : sample + 1], size=coarse, mode="area")
            image[sample : sample + 1] = functional.interpolate(reduced, size=shape, mode="trilinear")


@dataclass(frozen=True)
class Gamma(IntensityTransform):
    """A power of the range from minimum to maximum; mean and standard deviation stay.

    Attributes:
        exponents: ``(batch, channel)``; 1 is neutral.
        inverted: ``(batch, channel)``: applied to the negative.
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
