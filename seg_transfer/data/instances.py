"""Objects that are told apart, such as cells that touch: from numbers in label files to classes that can be learned.

Label files of such a data set hold 0 and a number per object. The network has two outputs, which are regions: the whole
object, and its core. Cores of touching objects do not touch, so that each predicted core is one object, as in nnU-Net's
entries to the Cell Tracking Challenge (border and core; Isensee et al., Nature Methods 18:203-211, 2021). The border's
width is a share of each object's own size, so that nothing has to be set, and every object has a core.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.description import BORDER_CLASS, CORE_CLASS
from seg_transfer.errors import UserError

CORE_FROM = 1 / 3
"""The core begins at this share of an object's largest distance from its edge."""


def core_and_border(numbers: NDArray[np.integer], spacing: Sequence[float]) -> NDArray[np.uint8]:
    """Classes of numbered objects: 0 background, 1 core, 2 border.

    A core is what lies deeper in its object than a third of the object's deepest voxel, by Euclidean distance to the
    next voxel of anything else. The image's edge is not the edge of an object.

    Args:
        numbers: 0, or the number of an object, ``(x, y, z)``. Numbers need not follow each other.
        spacing: Spacing of each axis.

    Raises:
        UserError: If a number is negative.
    """
    from scipy import ndimage  # 0.3 s to import, and most data sets need none

    if numbers.min(initial=0) < 0:
        what = f"the object number {numbers.min()} is negative"
        raise UserError(what, hint="number objects from 1; the background is 0")
    classes = np.zeros(numbers.shape, np.uint8)
    found, ordered = np.unique(numbers, return_inverse=True)
    ordered = ordered.reshape(numbers.shape).astype(np.int32)
    if found.size and found[0] != 0:
        ordered += 1  # no background in this image
    for number, box in enumerate(ndimage.find_objects(ordered), start=1):
        wider = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
        inside = ordered[wider] == number
        target = classes[wider]
        if inside.all():  # it fills the image: there is no edge
            target[...] = CORE_CLASS
            continue
        depth = ndimage.distance_transform_edt(inside, sampling=spacing)
        target[inside] = BORDER_CLASS
        target[depth > CORE_FROM * depth.max()] = CORE_CLASS
    return classes


def as_foreground(numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
    """1 in every object, 0 elsewhere."""
    return (numbers != 0).astype(np.uint8)
