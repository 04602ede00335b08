"""What changes intensities and leaves labels alone: resolution, colour, noise, blur, contrast, gamma."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seg_transfer.training.augment.parameters import Array, Parameters
from seg_transfer.training.augment.rows import per_sample, rows_of

VOXELS = (2, 3, 4)  # axes of a batch
BATCH_RANK = 5
BLUR_SIGMAS = 3
"""Where the Gaussian is cut off."""
TINY = 1e-6


def reduce_resolution(image: Tensor, zoom: Array) -> None:
    """Average voxels to a coarser grid and interpolate back, in place: what a thicker slice or a worse lens shows.

    Args:
        image: ``(batch, channel, slice, u, v)``.
        zoom: ``(batch, 3)`` share of the resolution that is kept along (slice, u, v).
    """
    shape = image.shape[2:]
    for sample in np.flatnonzero((zoom != 1).any(axis=1)).tolist():
        coarse = [max(1, round(size * float(share))) for size, share in zip(shape, zoom[sample], strict=True)]
        reduced = functional.interpolate(image[sample : sample + 1], size=coarse, mode="area")
        image[sample : sample + 1] = functional.interpolate(reduced, size=shape, mode="trilinear")


def jitter_colour(image: Tensor, parameters: Parameters) -> None:
    """Change hue, saturation and value of colours in [0, 1], in place; grey stays grey.

    All three are one matrix on (red, green, blue): a rotation about the grey axis, a factor on the distance from it,
    and a factor on the whole. Values beyond [0, 1] are cut, as in a picture.

    Args:
        image: ``(batch, 3, slice, u, v)``, as min-max normalization gives it.
        parameters: What to do.
    """
    rows = rows_of((parameters.hue != 0) | (parameters.saturation != 1) | (parameters.value != 1), image)
    if rows is not None:
        mixing = per_sample(_colour_matrices(parameters), rows, rank=3)
        image[rows] = torch.einsum("rij,rj...->ri...", mixing, image[rows]).clamp(0, 1)


def add_noise(image: Tensor, amounts: Array, seed: int) -> None:
    """Add Gaussian noise in place; ``amounts`` ``(batch, channel)`` over the channel's own standard deviation."""
    if (rows := rows_of((amounts > 0).any(axis=1), image)) is not None:
        generator = torch.Generator(image.device).manual_seed(seed)
        chosen = image[rows]
        noise = torch.randn(chosen.shape, generator=generator, device=image.device)
        spread = chosen.std(VOXELS, keepdim=True)
        image[rows] = chosen + noise * spread * per_sample(amounts, rows, rank=BATCH_RANK)


def blur(image: Tensor, sigmas: Array, axes: tuple[int, ...]) -> None:
    """Gaussian blur in place, one axis after the other; a sum of shifted copies needs no grouped convolution.

    Args:
        image: ``(batch, channel, slice, u, v)``.
        sigmas: ``(batch, channel)`` in voxels; 0 leaves a channel alone.
        axes: Of the batch, such as (3, 4).
    """
    if (rows := rows_of((sigmas > 0).any(axis=1), image)) is None:
        return
    radius = math.ceil(BLUR_SIGMAS * float(sigmas.max()))
    offsets = np.arange(-radius, radius + 1)
    kernels = np.exp(-0.5 * (offsets / np.maximum(sigmas, 1e-3)[..., None]) ** 2)
    kernels = (kernels / kernels.sum(axis=-1, keepdims=True)).astype(np.float32)
    chosen = image[rows]
    for axis in axes:
        length = chosen.shape[axis]
        positions = torch.arange(-radius, length + radius, device=image.device).clamp(0, length - 1)
        padded = chosen.index_select(axis, positions)
        chosen = torch.zeros_like(chosen)
        for tap in range(len(offsets)):
            weight = per_sample(kernels[..., tap], rows, rank=BATCH_RANK)
            chosen.addcmul_(padded.narrow(axis, tap, length), weight)
    image[rows] = chosen


def change_brightness(image: Tensor, factors: Array) -> None:
    """Multiply in place by ``factors`` ``(batch, channel)``."""
    if (rows := rows_of((factors != 1).any(axis=1), image)) is not None:
        image[rows] = image[rows] * per_sample(factors, rows, rank=BATCH_RANK)


def change_contrast(image: Tensor, factors: Array) -> None:
    """Multiply the distance from the mean in place by ``factors`` ``(batch, channel)``, within the range there was."""
    if (rows := rows_of((factors != 1).any(axis=1), image)) is not None:
        chosen = image[rows]
        lowest, highest, mean = chosen.amin(VOXELS, True), chosen.amax(VOXELS, True), chosen.mean(VOXELS, True)
        stretched = (chosen - mean) * per_sample(factors, rows, rank=BATCH_RANK) + mean
        image[rows] = stretched.clamp(lowest, highest)


def change_gamma(image: Tensor, exponents: Array, inverted: NDArray[np.bool_]) -> None:
    """A power of the range from minimum to maximum, in place; mean and standard deviation stay.

    Args:
        image: ``(batch, channel, slice, u, v)``.
        exponents: ``(batch, channel)``.
        inverted: ``(batch, channel)``: done on the negative.
    """
    if (rows := rows_of((exponents != 1).any(axis=1), image)) is None:
        return
    sign = 1 - 2 * per_sample(inverted, rows, rank=BATCH_RANK).float()
    chosen = image[rows] * sign
    lowest, mean, spread = chosen.amin(VOXELS, True), chosen.mean(VOXELS, True), chosen.std(VOXELS, keepdim=True)
    width = (chosen.amax(VOXELS, True) - lowest).clamp(min=TINY)
    curved = ((chosen - lowest) / width).pow(per_sample(exponents, rows, rank=BATCH_RANK))
    centred = curved - curved.mean(VOXELS, True)
    curved = centred / centred.std(VOXELS, keepdim=True).clamp(min=TINY) * spread + mean
    image[rows] = curved * sign


def _colour_matrices(parameters: Parameters) -> Array:
    """``(batch, 3, 3)`` from (red, green, blue) to the same."""
    grey = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)  # crosses a colour with the grey axis
    hue, saturation, value = (
        one.astype(np.float64)[:, None, None] for one in (parameters.hue, parameters.saturation, parameters.value)
    )
    turned = np.cos(hue) * (np.eye(3) - grey) + np.sin(hue) * across
    return (value * (grey + saturation * turned)).astype(np.float32)
