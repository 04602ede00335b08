"""The table of metrics. A new metric is one entry of :data:`METRICS`: files, tables and ``--help`` follow from it.

Dice and IoU count voxels. HD95 is measured between the centres of surface voxels and is the larger of both directed
95th percentiles (as in MONAI and the Medical Segmentation Decathlon). NSD is the surface Dice of Nikolov et al. 2018
(arXiv 1809.04430): surface elements between voxel corners are weighted by their area, which suits anisotropic voxels;
MONAI's ``use_subvoxels`` gives the same values as the authors' code.

numpy, torch and MONAI are imported where a surface is measured, since ``segtl --help`` imports this module.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from seg_transfer.util.statistics import dice

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from seg_transfer.data.geometry import Unit


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
    """

    prediction: np.ndarray
    reference: np.ndarray
    spacing: Sequence[float]
    tolerance: float
    voxel_volume: float
    cut_off: bool

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
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Predicted and reference mask for MONAI, ``(1, 1, axes ...)``."""
        import torch

        return torch.from_numpy(self.prediction.copy())[None, None], torch.from_numpy(self.reference.copy())[None, None]

    @property
    def float_spacing(self) -> tuple[float, ...]:
        """The spacing for MONAI, which refuses a mixture of int and float."""
        return tuple(float(size) for size in self.spacing)


def _dice(masks: LabelMasks) -> float:
    return dice(masks.common, masks.predicted, masks.true)


def _iou(masks: LabelMasks) -> float:
    union = masks.predicted + masks.true - masks.common
    return masks.common / union if union else math.nan


# The surface metrics handle empty masks themselves, since MONAI warns about them. MONAI 1.6 also gives a FutureWarning
# about a deprecated argument that it passes to itself.


def _hd95(masks: LabelMasks) -> float:
    from monai.metrics import compute_hausdorff_distance

    if masks.cut_off or not masks.predicted or not masks.true:
        return math.nan
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        distance = compute_hausdorff_distance(
            *masks.tensors, include_background=True, percentile=95, spacing=masks.float_spacing
        )
    return float(distance)


def _nsd(masks: LabelMasks) -> float:
    from monai.metrics import compute_surface_dice

    if masks.cut_off or not (masks.predicted or masks.true):
        return math.nan
    if not (masks.predicted and masks.true):
        return 0.0
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        share = compute_surface_dice(
            *masks.tensors,
            [masks.tolerance],
            include_background=True,
            spacing=masks.float_spacing,
            use_subvoxels=True,
        )
    return float(share)


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
        return "–" if math.isnan(value) else f"{self.scale * value:{self.shown}}"


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
    "volume_difference": Metric(_volume_difference, "±", best=0, unit="volume", shown="+.1f"),
    # (Prediction minus reference) over reference; nan if the reference is empty.
    "relative_volume_difference": Metric(_relative_volume_difference, "±", best=0, unit="%", shown="+.1f", scale=100),
}
"""Name in files -> metric, in the order of columns; a new metric comes last."""


def metrics_help() -> str:
    """The metrics as ``segtl evaluate --help`` lists them."""
    listed = ", ".join(f"{name} ({metric.best:g})" for name, metric in METRICS.items())
    return f"Metrics, and their value for a perfect prediction: {listed}."
