"""All transforms in order: draws their parameters for a batch and applies them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from seg_transfer.planning.fields import Spacing
from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment.intensity import INTENSITY, IntensityTransform
from seg_transfer.training.augment.spatial import SPATIAL, Mirror, Spatial, move
from seg_transfer.training.augment.structures import Structures
from seg_transfer.training.augment.transform import Draw, Transform

TRANSFORMS: tuple[type[Transform], ...] = (*SPATIAL, Structures, *INTENSITY, Mirror)
"""In the order in which they are applied."""


def sample_transforms(
    plan: Augmentation,
    *,
    batch: int,
    channels: int,
    generator: Callable[[str], np.random.Generator],
    rows: slice = slice(None),
) -> list[Transform]:
    """Draw every transform of one batch.

    Args:
        plan: Probabilities and ranges.
        batch: Number of samples.
        channels: Image channels; noise, blur, brightness, contrast and gamma are drawn for each.
        generator: Name of a transform -> its random generator.
        rows: The samples to return the transforms of; all are drawn.
    """
    drawn = [kind.sample(plan, Draw(generator(kind.__name__), batch=batch, channels=channels)) for kind in TRANSFORMS]
    return drawn if rows == slice(None) else [transform.share(rows) for transform in drawn]


def apply(
    image: Tensor,
    label: Tensor,
    transforms: Sequence[Transform],
    *,
    spacing: Spacing,
    out_of_plane: bool,
    maps: int = 0,
) -> tuple[Tensor, Tensor]:
    """Apply transforms: all spatial ones in one interpolation, then the others in order.

    Only samples that a transform changes are computed. All slices of a 2.5D stack are transformed alike.

    Args:
        image: ``(batch, channel, slice, u, v)`` float32.
        label: ``(batch, slice, u, v)`` class indices; one slice in 2.5D.
        transforms: Transforms of :func:`sample_transforms`.
        spacing: (slice, u, v); rotations are rigid in it.
        out_of_plane: Rotate out of the plane and scale along the slice axis too, for isotropic volumes.
        maps: Number of last channels that are position maps: they move with the image and keep their values.

    Returns:
        New image and label; the label is ``IGNORE`` where it was before and where voxels come from outside the patch.
    """
    image, label = image.clone(), label.clone()
    spatial = [transform for transform in transforms if isinstance(transform, Spatial)]
    move(image, label, spatial, spacing=spacing, out_of_plane=out_of_plane)
    values = image[:, : image.shape[1] - maps]
    for transform in transforms:
        if isinstance(transform, IntensityTransform):
            transform.apply(values)
        elif isinstance(transform, Structures):
            transform.apply(values, label)
        elif isinstance(transform, Mirror):
            transform.apply(image, label)
    return image, label
