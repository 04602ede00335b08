"""The table of metrics. A new metric is one entry of :data:`METRICS`: files, tables and ``--help`` follow from it.

Dice and IoU count voxels. HD95 is measured between the centres of surface voxels and is the larger of both directed
95th percentiles (as in MONAI and the Medical Segmentation Decathlon). NSD is the surface Dice of Nikolov et al. 2018
(arXiv 1809.04430), by the authors' code: surface elements between voxel corners are weighted by their area, which suits
anisotropic voxels. MONAI gives the same values of both, but importing it takes longer than to score a few cases.

Objects that are told apart also have those of :data:`OBJECT_METRICS`.

numpy and scipy are imported where a surface is measured, since ``segtl --help`` imports this module.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from seg_transfer.evaluation.panoptic import PanopticQuality, panoptic_quality
from seg_transfer.util.statistics import dice

if TYPE_CHECKING:
    import numpy as np

    from seg_transfer.data.geometry import Unit


SIGNED = "+.3g"
"""Format of sizes, which differ by powers of ten; large ones are written out."""


@dataclass(frozen=True)
class LabelMasks:
    """The masks of one label of one case, and quantities that several metrics share.

    Attributes:
        prediction: Boolean mask with 2 or 3 axes, cropped to a box around both masks.
        reference: Boolean mask of the same shape.
        spacing: Spacing of each axis, in mm (2D images: pixels).
        tolerance: Surface distance that NSD accepts, in mm (2D images: pixels).
        voxel_volume: Volume of a voxel in ml (2D images: 1).
        cut_off: Whether a mask touches voxels without annotation, so that its surface is unknown.
        objects: Predicted and true numbers of objects, where these are told apart.
    """

    prediction: np.ndarray
    reference: np.ndarray
    spacing: Sequence[float]
    tolerance: float
    voxel_volume: float
    cut_off: bool
    objects: tuple[np.ndarray, np.ndarray] | None = None

    @cached_property
    def predicted(self) -> int:
        """Voxels of the predicted mask."""
        return int(self.prediction.sum())

    @cached_property
    def true(self) -> int:
        """Voxels of the reference mask."""
        return int(self.reference.sum())

    @cached_property
    def common(self) -> int:
        """Voxels in both masks."""
        return int((self.prediction & self.reference).sum())

    @cached_property
    def quality(self) -> PanopticQuality:
        """How well the objects are told apart."""
        assert self.objects is not None, "only objects have a panoptic quality"
        return panoptic_quality(*self.objects)


def _dice(masks: LabelMasks) -> float:
    return dice(masks.common, masks.predicted, masks.true)


def _iou(masks: LabelMasks) -> float:
    union = masks.predicted + masks.true - masks.common
    return masks.common / union if union else math.nan


def _hd95(masks: LabelMasks) -> float:
    import numpy as np
    from scipy import ndimage

    if masks.cut_off or not masks.predicted or not masks.true:
        return math.nan
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (masks.prediction, masks.reference)]
    return max(
        float(np.percentile(ndimage.distance_transform_edt(~other, sampling=masks.spacing)[surface], 95))
        for surface, other in itertools.permutations(surfaces)
    )


def _nsd(masks: LabelMasks) -> float:
    from surface_distance.metrics import compute_surface_dice_at_tolerance, compute_surface_distances

    if masks.cut_off or not (masks.predicted or masks.true):
        return math.nan
    if not (masks.predicted and masks.true):
        return 0.0
    distances = compute_surface_distances(masks.reference, masks.prediction, masks.spacing)
    return float(compute_surface_dice_at_tolerance(distances, masks.tolerance))


def _volume_difference(masks: LabelMasks) -> float:
    return (masks.predicted - masks.true) * masks.voxel_volume


def _relative_volume_difference(masks: LabelMasks) -> float:
    return (masks.predicted - masks.true) / masks.true if masks.true else math.nan


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and displayed.

    Attributes:
        function: Masks of one label of one case -> value; nan where the metric is undefined.
        head: Name in tables; ``{tolerance}`` is replaced by that of NSD with its unit.
        best: Value of a perfect prediction; values nearer to it are better.
        unit: Distances are in mm (2D images: pixels), volumes in ml (2D images: pixels).
        shown: Format of a value in tables.
        scale: Factor from the value to the figure in tables.
        has_spread: Whether tables also show its standard deviation and median.
    """

    function: Callable[[LabelMasks], float]
    head: str
    best: float
    unit: Literal["", "%", "distance", "volume"] = ""
    shown: str = ".3f"
    scale: float = 1.0
    has_spread: bool = False

    def title(self, grid: Unit, tolerance: float) -> str:
        """Head of its column in a table; ``grid`` is the unit of the cases' grids."""
        units = {"distance": grid, "volume": "ml" if grid == "mm" else "pixels"}
        return f"{self.head.format(tolerance=f'{tolerance:g} {grid}')} {units.get(self.unit, self.unit)}".rstrip()

    def text(self, value: float) -> str:
        """A value formatted for tables."""
        if math.isnan(value):
            return "–"
        value *= self.scale
        return f"{value:+.0f}" if self.shown == SIGNED and abs(value) >= 100 else f"{value:{self.shown}}"


METRICS: Mapping[str, Metric] = {
    # 2 |P and R| / (|P| + |R|); nan if both masks are empty, 0 if one is.
    "dice": Metric(_dice, "Dice", best=1, has_spread=True),
    # |P and R| / |P or R|; nan if both masks are empty, 0 if one is.
    "iou": Metric(_iou, "IoU", best=1),
    # The larger of the two directed 95th percentiles of surface distance; nan if a mask is empty or cut off.
    "hd95": Metric(_hd95, "HD95", best=0, unit="distance", shown=".1f"),
    # Share of both surfaces within the tolerance of the other one; nan if both masks are empty or one is cut off.
    "nsd": Metric(_nsd, "NSD {tolerance}", best=1),
    # Prediction minus reference.
    "volume_difference": Metric(_volume_difference, "±", best=0, unit="volume", shown=SIGNED),
    # (Prediction minus reference) over reference; nan if the reference is empty.
    "relative_volume_difference": Metric(_relative_volume_difference, "±", best=0, unit="%", shown="+.1f", scale=100),
}
"""Name in files -> metric, in the order of columns; a new metric comes last."""

OBJECT_METRICS: Mapping[str, Metric] = {
    # SQ times RQ; nan if there is no object.
    "pq": Metric(lambda masks: masks.quality.quality, "PQ", best=1, has_spread=True),
    # Mean IoU of the predicted and true objects that match; nan if none do.
    "sq": Metric(lambda masks: masks.quality.segmentation, "SQ", best=1),
    # F1 score of the objects; nan if there is no object.
    "rq": Metric(lambda masks: masks.quality.recognition, "RQ", best=1),
}
"""The same for objects that are told apart."""


def metrics_help() -> str:
    """The metrics as ``segtl evaluate --help`` lists them."""
    listed = ", ".join(f"{name} ({metric.best:g})" for name, metric in METRICS.items())
    objects = ", ".join(f"{name} ({metric.best:g})" for name, metric in OBJECT_METRICS.items())
    return (
        f"Metrics, and their value for a perfect prediction: {listed}; of objects that are told apart also {objects}."
    )
