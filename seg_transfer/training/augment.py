"""Random changes of whole batches on the training device: parameters are sampled apart from being applied.

Transforms, their order and ranges are nnU-Net's (Isensee et al., Nature Methods 2021, supplementary note 4, as its
published code has them); probabilities and the ranges of rotation and scaling are in the plan. Two simplifications:
resolution is not reduced, and a patch is not read larger than the network needs, so that what rotation and scaling
bring in from outside is zero, as padding is, and ignored by the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Augmentation, Spacing
from seg_transfer.training.losses import IGNORE

NOISE = (0.0, 0.1)  # standard deviation over the channel's own
BLUR = (0.5, 1.0)  # sigma in voxels
BRIGHTNESS = (0.75, 1.25)  # factor
CONTRAST = (0.75, 1.25)  # factor on the distance from the mean
GAMMA = (0.7, 1.5)  # exponent
GAMMA_INVERTED = 0.25  # share of gamma transforms done on the negative
BLUR_RADIUS = 3
VOXELS = (2, 3, 4)  # axes of a batch
TINY = 1e-6

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Parameters:
    """What happens to each sample of a batch; the neutral value where nothing does.

    Attributes:
        angles: ``(batch, 3)`` radians about the slice, u and v axis.
        scale: ``(batch,)`` magnification.
        mirror: ``(batch, 3)`` bool per axis (slice, u, v).
        noise: ``(batch, channel)`` standard deviation over the channel's own; 0 is neutral, as for blur.
        blur: ``(batch, channel)`` sigma in voxels.
        brightness: ``(batch, channel)`` factor.
        contrast: ``(batch, channel)`` factor.
        gamma: ``(batch, channel)`` exponent.
        inverted: ``(batch, channel)`` bool: gamma on the negative.
        noise_seed: Of the noise itself.
    """

    angles: Array
    scale: Array
    mirror: NDArray[np.bool_]
    noise: Array
    blur: Array
    brightness: Array
    contrast: Array
    gamma: Array
    inverted: NDArray[np.bool_]
    noise_seed: int


def sample_parameters(
    augmentation: Augmentation, *, batch: int, channels: int, generator: np.random.Generator
) -> Parameters:
    """Draw the parameters of one batch.

    Args:
        augmentation: What the plan says.
        batch: Samples.
        channels: Image channels; each gets brightness, contrast and gamma of its own.
        generator: Decides everything, the noise included.
    """
    plan, draw = augmentation, generator
    limit = np.deg2rad(plan.rotate_degrees)
    angles = draw.uniform(-limit, limit, (batch, 3)) * _chosen(draw, plan.rotate_probability, (batch, 1))
    if not plan.rotate_out_of_plane:
        angles[:, 1:] = 0
    mirror = np.zeros((batch, 3), bool)
    for axis in plan.mirror_axes:
        mirror[:, axis] = draw.random(batch) < 0.5
    each = (batch, channels)

    def factor(probability: float, limits: tuple[float, float], shape: tuple[int, ...]) -> Array:
        chosen = _chosen(draw, probability, (batch, *(1,) * (len(shape) - 1)))
        return np.where(chosen, _around_one(draw, limits, shape), 1.0).astype(np.float32)

    def amount(probability: float, limits: tuple[float, float]) -> Array:
        return (draw.uniform(*limits, each) * _chosen(draw, probability, (batch, 1))).astype(np.float32)

    return Parameters(
        angles=angles.astype(np.float32),
        scale=factor(plan.scale_probability, plan.scale_range, (batch,)),
        mirror=mirror,
        noise=amount(plan.noise_probability, NOISE),
        blur=amount(plan.blur_probability, BLUR),
        brightness=factor(plan.brightness_probability, BRIGHTNESS, each),
        contrast=factor(plan.contrast_probability, CONTRAST, each),
        gamma=factor(plan.gamma_probability, GAMMA, each),
        inverted=_chosen(draw, GAMMA_INVERTED, each),
        noise_seed=int(draw.integers(2**31)),
    )


def apply(
    image: Tensor, label: Tensor, parameters: Parameters, *, spacing: Spacing, out_of_plane: bool
) -> tuple[Tensor, Tensor]:
    """Carry out what was drawn: rotation and scaling, noise, blur, brightness, contrast, gamma, mirror.

    Only samples that a transform changes are computed. The slices of a 2.5D stack are transformed as one.

    Args:
        image: ``(batch, channel, slice, u, v)`` float32.
        label: ``(batch, slice, u, v)`` class indices; one slice in 2.5D.
        parameters: From :func:`sample_parameters`.
        spacing: Of (slice, u, v); rotations are rigid in it.
        out_of_plane: Scale and blur along the slice axis too, as fits isotropic volumes.

    Returns:
        New image and label; ``IGNORE`` where the label lies outside the patch that was read.
    """
    image, label = image.clone(), label.clone()
    _spatial(image, label, parameters, spacing, out_of_plane)
    _noise(image, parameters)
    _blur(image, parameters.blur, axes=(2, 3, 4) if out_of_plane else (3, 4))
    _brightness_and_contrast(image, parameters)
    _gamma(image, parameters)
    for axis in range(3):
        if (rows := _rows(parameters.mirror[:, axis], image)) is not None:
            image[rows] = image[rows].flip(axis + 2)
            label[rows] = label[rows].flip(axis + 1)
    return image, label


def _chosen(draw: np.random.Generator, probability: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return draw.random(shape) < probability


def _around_one(draw: np.random.Generator, limits: tuple[float, float], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Shrink or enlarge with equal chance, although the range above 1 is wider."""
    lower, upper = draw.uniform(min(limits[0], 1), 1, shape), draw.uniform(1, max(limits[1], 1), shape)
    return np.where(draw.random(shape) < 0.5, lower, upper)


def _rows(chosen: Any, like: Tensor) -> Tensor | None:
    """Indices of the samples concerned, on the device; None if there are none."""
    if not chosen.any():
        return None
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def _per_channel(values: NDArray, rows: Tensor, like: Tensor) -> Tensor:
    """``(batch, channel)`` -> ``(row, channel, 1, 1, 1)`` on the device."""
    return torch.from_numpy(values).to(like.device)[rows][..., None, None, None]


def _spatial(image: Tensor, label: Tensor, parameters: Parameters, spacing: Spacing, out_of_plane: bool) -> None:
    rows = _rows((parameters.angles != 0).any(axis=1) | (parameters.scale != 1), image)
    if rows is None:
        return
    extent = np.array(image.shape[2:]) * np.array(spacing)
    matrices = [_source(angles, scale) for angles, scale in zip(parameters.angles, parameters.scale, strict=True)]
    # torch's grids are normalized to [-1, 1] and ordered (v, u, slice)
    normalized = np.stack(matrices)[:, ::-1, ::-1] * extent[::-1][None, None, :] / extent[::-1][None, :, None]
    affine = torch.from_numpy(np.ascontiguousarray(normalized, np.float32)).to(image.device)[rows]
    moved, marked = image[rows], (label[rows] - IGNORE).float()  # shifted so that padding with zeros means IGNORE
    if out_of_plane:
        marked = marked.unsqueeze(1)
    else:
        affine, moved = affine[:, :2, :2], moved.flatten(1, 2)
    affine = functional.pad(affine, (0, 1))
    grid = functional.affine_grid(affine, [len(rows), 1, *moved.shape[2:]], align_corners=False)
    moved = functional.grid_sample(moved, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    marked = functional.grid_sample(marked, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    image[rows] = moved.reshape(len(rows), *image.shape[1:])
    label[rows] = marked.reshape(len(rows), *label.shape[1:]).to(label.dtype) + IGNORE


def _source(angles: Array, scale: float) -> NDArray[np.float64]:
    """Matrix from an output position to the input position it shows, both (slice, u, v) about the centre."""
    matrix = np.eye(3) / scale
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _noise(image: Tensor, parameters: Parameters) -> None:
    if (rows := _rows((parameters.noise > 0).any(axis=1), image)) is not None:
        generator = torch.Generator(image.device).manual_seed(parameters.noise_seed)
        chosen = image[rows]
        noise = torch.randn(chosen.shape, generator=generator, device=image.device)
        spread = chosen.std(VOXELS, keepdim=True)
        image[rows] = chosen + noise * spread * _per_channel(parameters.noise, rows, image)


def _blur(image: Tensor, sigmas: Array, axes: tuple[int, ...]) -> None:
    """Gaussian blur, one axis after the other; a sum of shifted copies needs no grouped convolution."""
    if (rows := _rows((sigmas > 0).any(axis=1), image)) is None:
        return
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernels = np.exp(-0.5 * (offsets / np.maximum(sigmas, 1e-3)[..., None]) ** 2)
    kernels = (kernels / kernels.sum(axis=-1, keepdims=True)).astype(np.float32)
    chosen = image[rows]
    for axis in axes:
        length = chosen.shape[axis]
        positions = torch.arange(-BLUR_RADIUS, length + BLUR_RADIUS, device=image.device).clamp(0, length - 1)
        padded = chosen.index_select(axis, positions)
        chosen = torch.zeros_like(chosen)
        for tap in range(len(offsets)):
            chosen.addcmul_(padded.narrow(axis, tap, length), _per_channel(kernels[..., tap], rows, image))
    image[rows] = chosen


def _brightness_and_contrast(image: Tensor, parameters: Parameters) -> None:
    if (rows := _rows((parameters.brightness != 1).any(axis=1), image)) is not None:
        image[rows] = image[rows] * _per_channel(parameters.brightness, rows, image)
    if (rows := _rows((parameters.contrast != 1).any(axis=1), image)) is not None:
        chosen = image[rows]
        lowest, highest, mean = chosen.amin(VOXELS, True), chosen.amax(VOXELS, True), chosen.mean(VOXELS, True)
        stretched = (chosen - mean) * _per_channel(parameters.contrast, rows, image) + mean
        image[rows] = stretched.clamp(lowest, highest)


def _gamma(image: Tensor, parameters: Parameters) -> None:
    """A power of the range from minimum to maximum; mean and standard deviation stay."""
    if (rows := _rows((parameters.gamma != 1).any(axis=1), image)) is None:
        return
    sign = 1 - 2 * _per_channel(parameters.inverted, rows, image).float()
    chosen = image[rows] * sign
    lowest, mean, spread = chosen.amin(VOXELS, True), chosen.mean(VOXELS, True), chosen.std(VOXELS, keepdim=True)
    width = (chosen.amax(VOXELS, True) - lowest).clamp(min=TINY)
    curved = ((chosen - lowest) / width).pow(_per_channel(parameters.gamma, rows, image))
    centred = curved - curved.mean(VOXELS, True)
    curved = centred / centred.std(VOXELS, keepdim=True).clamp(min=TINY) * spread + mean
    image[rows] = curved * sign
