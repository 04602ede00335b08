"""Whether positions in an image mean what they meant in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.extent import Extent

OTHER_SIZE = 1.25
"""An image that is so many times as long along an axis as the longest training image, or the shortest as it, shows
another part of the body."""


def known_extent(array: NDArray[np.float32], plan: Plan) -> Extent | None:
    """Where the content of a case lies, for a plan with positions; None without, and where they would mislead.

    The middle of an image that shows half of the body is not the body's. On halves of abdomen MR positions cost 7 to 18
    points of Dice (``bench/crops.py``, docs/log.md, 2026-11-28), so that images whose size is unlike the training
    images' are predicted without. Images that are cropped to what is not zero are not compared.

    Args:
        array: The network's input ``(channel, slice, u, v)``.
        plan: The model's plan.
    """
    return Extent.of(array) if positions_hold(array.shape[1:], plan) else None


def positions_hold(shape: Sequence[int], plan: Plan) -> bool:
    """Whether positions in an image ``(slice, u, v)`` mean what they meant in training; see :func:`known_extent`."""
    training, data = plan.training_images, plan.data
    if not plan.model.position or training is None:
        return False
    if not data.crop_nonzero:
        lengths = {axis: length * step for axis, length, step in zip(data.axes, shape, data.spacing, strict=True)}
        for axis, spread in enumerate(training.size):  # 2D images have two
            size = math.log(lengths[axis])
            if not spread.lowest - math.log(OTHER_SIZE) <= size <= spread.highest + math.log(OTHER_SIZE):
                return False
    return True
