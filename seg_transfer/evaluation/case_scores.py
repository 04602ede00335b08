"""The scores of one case, label by label.

Voxels without annotation (the ``ignore`` value of the reference) are left out of both maps. Where they cut off a mask,
both maps get the same artificial surface, with a distance of 0. HD95 and NSD are therefore undefined where the
predicted or the reference mask touches such voxels.

A case of one slice is measured in the plane: in a volume, each of its voxels would lie on the surface.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from seg_transfer.data.geometry import Unit
from seg_transfer.data.instances import as_foreground
from seg_transfer.data.label_values import distinct, to_classes
from seg_transfer.evaluation.metrics import METRICS, OBJECT_METRICS, LabelMasks
from seg_transfer.evaluation.scores import LabelScore, LabelValue

MM3_PER_ML = 1000.0
MOST_SLOTS = 2**16
Slices = tuple[slice, ...]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    values: Iterable[LabelValue] | None,
    spacing: Sequence[float],
    *,
    tolerance: float = 1.0,
    unit: Unit = "mm",
    ignore: int | None = None,
    instances: bool = False,
) -> dict[LabelValue, LabelScore]:
    """Score a predicted label map against its reference.

    Args:
        prediction: Label values ``(x, y, z)``, integer.
        reference: Label values on the same grid.
        values: The label values to score, for a region a tuple of its values; None for all values but 0 that occur in
            either map.
        spacing: Spacing of x, y and z, in ``unit``.
        tolerance: Surface distance that NSD accepts, in ``unit``.
        unit: Volume differences are in ml for "mm" and in pixels for "pixel".
        ignore: Reference value of voxels without annotation.
        instances: Whether both maps hold numbers of objects: they count as one value, 1, and get the
            metrics of objects.

    Returns:
        Each of ``values`` -> its scores.

    Raises:
        ValueError: If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, reference {reference.shape}")
    voxel_volume = math.prod(spacing) / MM3_PER_ML if unit == "mm" else 1.0
    if 1 in prediction.shape:
        flat = prediction.shape.index(1)
        prediction, reference = prediction.squeeze(flat), reference.squeeze(flat)
        spacing = [size for axis, size in enumerate(spacing) if axis != flat]
    ignored = None
    if ignore is not None:
        ignored = reference == ignore
        prediction, reference = np.where(ignored, 0, prediction), np.where(ignored, 0, reference)
    numbers = (prediction, reference)
    if instances:
        prediction, reference = as_foreground(prediction), as_foreground(reference)
    predicted_boxes, reference_boxes = _boxes(prediction), _boxes(reference)
    if values is None:
        values = sorted(predicted_boxes.keys() | reference_boxes.keys())
    metrics = {**METRICS, **OBJECT_METRICS} if instances else METRICS
    scores: dict[LabelValue, LabelScore] = {}
    for value in values:
        members = value if isinstance(value, tuple) else (value,)
        boxes = [boxes[member] for boxes in (predicted_boxes, reference_boxes) for member in members if member in boxes]
        box = _union(boxes) if boxes else (slice(0),) * prediction.ndim
        if ignored is not None:
            box = tuple(slice(max(part.start or 0, 1) - 1, part.stop + 1) for part in box)
        predicted, true = np.isin(prediction[box], members), np.isin(reference[box], members)
        cut_off = ignored is not None and _touches(predicted | true, ignored[box])
        objects = (numbers[0][box], numbers[1][box]) if instances else None
        masks = LabelMasks(predicted, true, spacing, tolerance, voxel_volume, cut_off, objects)
        scores[value] = LabelScore(
            metrics={name: metric.function(masks) for name, metric in metrics.items()},
            prediction_voxels=masks.predicted,
            reference_voxels=masks.true,
        )
    return scores


def _touches(mask: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks have voxels that share a face, an edge or a corner."""
    return bool((ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim)) & other).any())


def _boxes(labels: np.ndarray) -> dict[int, Slices]:
    """Bounding box of every label value but 0."""
    if labels.size and labels.min() >= 0 and labels.max() <= MOST_SLOTS:
        boxes = ndimage.find_objects(labels.astype(np.int32, copy=False))
        return {value: box for value, box in enumerate(boxes, start=1) if box is not None}
    values = [0, *sorted(distinct(labels) - {0})]  # find_objects has a slot per value up to the largest
    boxes = ndimage.find_objects(to_classes(labels, values).astype(np.int32))
    return {value: box for value, box in zip(values[1:], boxes, strict=True) if box is not None}


def _union(boxes: Sequence[Slices]) -> Slices:
    return tuple(
        slice(min(part.start for part in along), max(part.stop for part in along)) for along in zip(*boxes, strict=True)
    )
