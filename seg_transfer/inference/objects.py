"""Predicted cores and borders to a label map with one number per object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.description import CORE_CLASS


def number_objects(classes: NDArray[np.integer], spacing: tuple[float, ...]) -> NDArray[np.unsignedinteger]:
    """Number the objects of a label map of cores and borders.

    Each connected core is an object; every other voxel of a connected part of the foreground belongs to the core of
    that part that is nearest in a straight line. Parts without a core are no objects.

    Args:
        classes: 0 background, 1 core, 2 border, as of :func:`seg_transfer.data.instances.core_and_border`.
        spacing: Spacing of each axis.

    Returns:
        0, or the number of the object from 1 on; uint16, or uint32 from 65536 objects on.
    """
    from scipy import ndimage  # 0.35 s to import, and most models need none

    cores, count = ndimage.label(classes == CORE_CLASS)
    parts, _ = ndimage.label(classes != 0, np.ones((3,) * classes.ndim))
    numbers = np.zeros(classes.shape, np.uint16 if count < 2**16 else np.uint32)
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[box] == part
        seeds = np.where(inside, cores[box], 0)
        held = np.unique(seeds[seeds != 0])
        if held.size == 1:
            numbers[box][inside] = held[0]
        elif held.size:
            nearest = ndimage.distance_transform_edt(
                seeds == 0, sampling=spacing, return_distances=False, return_indices=True
            )
            numbers[box][inside] = seeds[tuple(nearest)][inside]
    return numbers
