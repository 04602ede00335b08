"""What happens to each sample of a batch: drawn from the plan's probabilities and ranges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.plan import Augmentation

GAMMA_INVERTED = 0.25  # share of gamma transforms done on the negative
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Parameters:
    """What happens to each sample of a batch; the neutral value where nothing does.

    Attributes:
        angles: ``(batch, 3)`` radians about the slice, u and v axis.
        scale: ``(batch,)`` magnification.
        stretch: ``(batch,)`` magnification along u over that along v, the area stays.
        shear: ``(batch,)`` radians by which lines along v lean towards u.
        lens: ``(batch,)`` radial distortion: a point at the share r of the half diagonal shows what lies
            ``1 + lens * r**2`` times as far from the centre.
        mirror: ``(batch, 3)`` bool per axis (slice, u, v).
        zoom: ``(batch, 3)`` share of the resolution that is kept along (slice, u, v).
        noise: ``(batch, channel)`` standard deviation over the channel's own; 0 is neutral, as for blur.
        blur: ``(batch, channel)`` sigma in voxels.
        brightness: ``(batch, channel)`` factor.
        contrast: ``(batch, channel)`` factor on the distance from the mean.
        gamma: ``(batch, channel)`` exponent.
        inverted: ``(batch, channel)`` bool: gamma on the negative.
        hue: ``(batch,)`` radians about the grey axis of colours.
        saturation: ``(batch,)`` factor on the distance from grey.
        value: ``(batch,)`` factor on the colour as a whole.
        noise_seed: Of the noise itself.
    """

    angles: Array
    scale: Array
    stretch: Array
    shear: Array
    lens: Array
    mirror: Mask
    zoom: Array
    noise: Array
    blur: Array
    brightness: Array
    contrast: Array
    gamma: Array
    inverted: Mask
    hue: Array
    saturation: Array
    value: Array
    noise_seed: int


def sample_parameters(
    augmentation: Augmentation, *, batch: int, channels: int, generator: np.random.Generator
) -> Parameters:
    """Draw the parameters of one batch.

    Args:
        augmentation: What the plan says.
        batch: Samples.
        channels: Image channels; each gets noise, blur, brightness, contrast and gamma of its own.
        generator: Decides everything, the noise included.
    """
    plan, draw = augmentation, _Draw(generator, batch)
    angles = draw.within(plan.rotate_probability, np.deg2rad(plan.rotate_degrees), 3)
    if not plan.rotate_out_of_plane:
        angles[:, 1:] = 0
    mirror = np.zeros((batch, 3), bool)
    for axis in plan.mirror_axes:
        mirror[:, axis] = draw.chosen(0.5)
    zoom = np.ones((batch, 3), np.float32)
    zoom[:, list(plan.low_resolution_axes)] -= draw.amount(
        plan.low_resolution_probability, (0, 1 - plan.low_resolution_least), 1
    )
    jittered = draw.chosen(plan.colour_probability)
    return Parameters(
        angles=angles,
        scale=draw.factor(plan.scale_probability, plan.scale_range),
        stretch=draw.factor(plan.stretch_probability, plan.stretch_range),
        shear=draw.within(plan.shear_probability, np.deg2rad(plan.shear_degrees)),
        lens=draw.within(plan.lens_probability, plan.lens_amount),
        mirror=mirror,
        zoom=zoom,
        noise=draw.amount(plan.noise_probability, (0.0, plan.noise_std), channels),
        blur=draw.amount(plan.blur_probability, plan.blur_sigma, channels),
        brightness=draw.factor(plan.brightness_probability, plan.brightness_range, channels),
        contrast=draw.factor(plan.contrast_probability, plan.contrast_range, channels),
        gamma=draw.factor(plan.gamma_probability, plan.gamma_range, channels),
        inverted=generator.random((batch, channels)) < GAMMA_INVERTED,
        hue=draw.within(jittered, np.deg2rad(plan.hue_degrees)),
        saturation=draw.factor(jittered, plan.saturation_range),
        value=draw.factor(jittered, plan.value_range),
        noise_seed=int(generator.integers(2**31)),
    )


class _Draw:
    """Draws one value, or several, for each sample of a batch; the neutral one for those that are not chosen."""

    def __init__(self, generator: np.random.Generator, batch: int) -> None:
        self.generator, self.batch = generator, batch

    def chosen(self, probability: float) -> Mask:
        return self.generator.random(self.batch) < probability

    def within(self, which: float | Mask, limit: float, *shape: int) -> Array:
        """Uniform within ``[-limit, limit]``; 0 is neutral."""
        return self._where(which, self.generator.uniform(-limit, limit, (self.batch, *shape)), 0.0)

    def amount(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Uniform within the limits; 0 is neutral."""
        return self._where(which, self.generator.uniform(*limits, (self.batch, *shape)), 0.0)

    def factor(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Shrink or enlarge with equal chance, although the range above 1 is wider; 1 is neutral."""
        size = (self.batch, *shape)
        lower, upper = self.generator.uniform(limits[0], 1, size), self.generator.uniform(1, limits[1], size)
        return self._where(which, np.where(self.generator.random(size) < 0.5, lower, upper), 1.0)

    def _where(self, which: float | Mask, values: NDArray[np.float64], neutral: float) -> Array:
        chosen = which if isinstance(which, np.ndarray) else self.chosen(which)
        return np.where(chosen.reshape(-1, *(1,) * (values.ndim - 1)), values, neutral).astype(np.float32)
