"""Carries out what was drawn, on a whole batch."""

from __future__ import annotations

from torch import Tensor

from seg_transfer.planning.fields import Spacing
from seg_transfer.training.augment.intensity import (
    add_noise,
    blur,
    change_brightness,
    change_contrast,
    change_gamma,
    jitter_colour,
    reduce_resolution,
)
from seg_transfer.training.augment.parameters import Parameters
from seg_transfer.training.augment.spatial import mirror, move


def apply(
    image: Tensor, label: Tensor, parameters: Parameters, *, spacing: Spacing, out_of_plane: bool
) -> tuple[Tensor, Tensor]:
    """Move, jitter colours, add noise, blur, change brightness, contrast and gamma, coarsen and mirror.

    Only samples that a transform changes are computed. The slices of a 2.5D stack are transformed as one.

    Args:
        image: ``(batch, channel, slice, u, v)`` float32.
        label: ``(batch, slice, u, v)`` class indices; one slice in 2.5D.
        parameters: From :func:`~seg_transfer.training.augment.parameters.sample_parameters`.
        spacing: Of (slice, u, v); rotations are rigid in it.
        out_of_plane: Move and blur along the slice axis too, as fits isotropic volumes.

    Returns:
        New image and label; ``IGNORE`` where the label lies outside the patch that was read, and where it was.
    """
    image, label = image.clone(), label.clone()
    move(image, label, parameters, spacing, out_of_plane)
    jitter_colour(image, parameters)
    add_noise(image, parameters.noise, parameters.noise_seed)
    blur(image, parameters.blur, axes=(2, 3, 4) if out_of_plane else (3, 4))
    change_brightness(image, parameters.brightness)
    change_contrast(image, parameters.contrast)
    reduce_resolution(image, parameters.zoom)
    change_gamma(image, parameters.gamma, parameters.inverted)
    mirror(image, label, parameters.mirror)
    return image, label
