"""Overlap and surface metrics of one case, label by label.

Dice and IoU count voxels. HD95 is measured between the centres of surface voxels, the larger of both directed 95th
percentiles (as in MONAI, and as the Medical Segmentation Decathlon reports it). NSD is the surface Dice of Nikolov et
al. 2018 (arXiv 1809.04430): surface elements between voxel corners weighted by their area, so that the long sides of
anisotropic voxels count for what they measure; MONAI's ``use_subvoxels`` gives the same values as the authors' code.

Voxels that the reference does not annotate (its ``ignore`` value) are left out of both maps. Overlap and volume are
then those of the annotated part. Surfaces are not: where masks are cut off by what is not annotated, both maps would
get the same made-up surface, with a distance of 0 (where single slices are annotated, all of it). HD95 and NSD are
therefore undefined where the predicted or the true mask touches such voxels.

A case of one slice is measured in the plane: taken as a volume, each of its voxels would lie on the surface.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from seg_transfer.data.geometry import Unit
from seg_transfer.evaluation.scores import LabelScore, LabelValue

MM3_PER_ML = 1000.0
Box = tuple[slice, ...]


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    values: Iterable[LabelValue] | None,
    spacing: Sequence[float],
    *,
    tolerance: float = 1.0,
    unit: Unit = "mm",
    ignore: int | None = None,
) -> dict[LabelValue, LabelScore]:
    """Score a predicted label map against its reference.

    Args:
        prediction: Label values ``(x, y, z)``, integer.
        reference: Label values on the same grid.
        values: The label values to score, of a region all of its values together; None for all values but 0 that
            occur in either map.
        spacing: Of x, y and z, in ``unit``.
        tolerance: Surface distance up to which NSD counts a surface as met, in ``unit``.
        unit: Volume differences are in ml for "mm" and in pixels for "pixel".
        ignore: Value of the reference's voxels that are not annotated, if there is one.

    Returns:
        What was in ``values`` -> its figures.

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
    unknown = None
    if ignore is not None:
        unknown = reference == ignore
        prediction, reference = np.where(unknown, 0, prediction), np.where(unknown, 0, reference)
    predicted_boxes, reference_boxes = _boxes(prediction), _boxes(reference)
    if values is None:
        values = sorted(predicted_boxes.keys() | reference_boxes.keys())
    scores: dict[LabelValue, LabelScore] = {}
    for value in values:
        members = value if isinstance(value, tuple) else (value,)
        boxes = [boxes[member] for boxes in (predicted_boxes, reference_boxes) for member in members if member in boxes]
        box = _union(boxes) if boxes else (slice(0),) * prediction.ndim
        if unknown is not None:
            box = tuple(slice(max(part.start or 0, 1) - 1, part.stop + 1) for part in box)
        masks = np.isin(prediction[box], members), np.isin(reference[box], members)
        cut_off = unknown is not None and _touches(masks[0] | masks[1], unknown[box])
        scores[value] = _score_masks(*masks, spacing, tolerance, voxel_volume, surfaces=not cut_off)
    return scores


def _touches(mask: np.ndarray, other: np.ndarray) -> bool:
    """Whether two masks have voxels that share a face, an edge or a corner."""
    return bool((ndimage.binary_dilation(mask, np.ones((3,) * mask.ndim)) & other).any())


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """Bounding box of every label value but 0."""
    found = ndimage.find_objects(labels.astype(np.int32, copy=False))
    return {value: box for value, box in enumerate(found, start=1) if box is not None}


def _union(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(part.start for part in along), max(part.stop for part in along)) for along in zip(*boxes, strict=True)
    )


def _score_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    tolerance: float,
    voxel_volume: float,
    *,
    surfaces: bool,
) -> LabelScore:
    """Score two masks cut to a box around both; without ``surfaces`` HD95 and NSD are nan.

    The emptiness of a mask is handled here because MONAI warns about it and its reductions take nan for 0.
    """
    predicted, true = int(prediction.sum()), int(reference.sum())
    both = int((prediction & reference).sum())
    dice = iou = hd95 = nsd = math.nan
    if predicted or true:
        dice, iou = 2 * both / (predicted + true), both / (predicted + true - both)
        nsd = 0.0 if surfaces else math.nan
    if predicted and true and surfaces:
        hd95, nsd = _surface_metrics(prediction, reference, spacing, tolerance)
    return LabelScore(
        dice=dice,
        iou=iou,
        hd95=hd95,
        nsd=nsd,
        volume_difference=(predicted - true) * voxel_volume,
        relative_volume_difference=(predicted - true) / true if true else math.nan,
        prediction_voxels=predicted,
        reference_voxels=true,
    )


def _surface_metrics(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """HD95 and NSD of two masks that are not empty."""
    predicted, true = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference))
    # MONAI refuses a spacing that mixes int and float.
    step = tuple(float(size) for size in spacing)
    with warnings.catch_warnings():
        # MONAI 1.6 warns about a deprecated argument that it passes to itself.
        warnings.simplefilter("ignore", FutureWarning)
        hd95 = compute_hausdorff_distance(predicted, true, include_background=True, percentile=95, spacing=step)
        nsd = compute_surface_dice(
            predicted, true, class_thresholds=[tolerance], include_background=True, spacing=step, use_subvoxels=True
        )
    return float(hd95), float(nsd)
