"""Removes what stands apart in a predicted label map, where cross-validation has shown that it helps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg_transfer.planning.model_file import Postprocessing


def postprocess(labels: NDArray[np.integer], chosen: Postprocessing) -> NDArray[np.integer]:
    """Keep only the largest component: of all labels together, then of single ones; the rest becomes background.

    Voxels are connected over faces, edges and corners.

    Args:
        labels: Label values of three axes; changed in place.
        chosen: What to do.
    """
    if chosen.foreground:
        _keep_largest(labels, labels != 0)
    for value in chosen.labels:
        _keep_largest(labels, labels == value)
    return labels


def _keep_largest(labels: NDArray[np.integer], mask: NDArray[np.bool_]) -> None:
    """Clear what of the mask is not in its largest component; of equal ones the first stays."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return
    box = found[0]
    inside = mask[box]
    components, count = ndimage.label(inside, structure=np.ones((3,) * mask.ndim, bool))
    if count > 1:
        sizes = np.bincount(components.reshape(-1))
        sizes[0] = 0
        labels[box][inside & (components != sizes.argmax())] = 0
