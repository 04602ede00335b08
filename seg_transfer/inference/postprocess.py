"""Finishes a predicted label map: numbers its objects, or removes small components.

Components are removed where that improved Dice in cross-validation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.label_values import LARGEST_IN_2D
from seg_transfer.errors import UserError
from seg_transfer.inference.objects import number_objects
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.preprocessing.case_transform import CaseTransform


def finish_labels(
    labels: NDArray[np.integer], transform: CaseTransform, data: DataPlan, chosen: Postprocessing
) -> NDArray[np.integer]:
    """What is written of a predicted label map.

    Args:
        labels: Label values ``(i, j, k)`` on the file's grid; changed in place.
        transform: The image's transform.
        data: Data part of the model's plan.
        chosen: Postprocessing of labels; objects that are told apart have none.

    Raises:
        UserError: If there are more objects than a label map in pixels can hold.
    """
    if not data.instances:
        return postprocess(labels, chosen)
    numbers = number_objects(labels, transform.native.spacing)
    if transform.unit == "pixel" and numbers.dtype.itemsize > 2:
        what = f"{numbers.max()} objects are found; a label map of a 2D image holds {LARGEST_IN_2D}"
        raise UserError(what, hint="cut the image into parts")
    return numbers


def postprocess(labels: NDArray[np.integer], chosen: Postprocessing) -> NDArray[np.integer]:
    """Keep only the largest component of all labels together, then of single labels; the rest becomes background.

    Voxels are connected over faces, edges and corners.

    Args:
        labels: Label values ``(i, j, k)``, changed in place.
        chosen: The labels that keep only their largest component.
    """
    if chosen.foreground:
        _keep_largest(labels, labels != 0)
    for value in chosen.labels:
        _keep_largest(labels, labels == value)
    return labels


def _keep_largest(labels: NDArray[np.integer], mask: NDArray[np.bool_]) -> None:
    """Clear all but the largest component of a mask; of equal ones the first stays."""
    from scipy import ndimage  # 0.35 s to import, and most models need none

    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return
    box = boxes[0]
    inside = mask[box]
    components, count = ndimage.label(inside, structure=np.ones((3,) * mask.ndim, bool))
    if count > 1:
        sizes = np.bincount(components.reshape(-1))
        sizes[0] = 0
        labels[box][inside & (components != sizes.argmax())] = 0
