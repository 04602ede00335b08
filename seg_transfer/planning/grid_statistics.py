"""Sizes of the cases on the network's grid."""

from __future__ import annotations

import numpy as np

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.distribution import Distribution
from seg_transfer.planning.rules.spacing import anisotropy
from seg_transfer.planning.site_fingerprint import SiteFingerprint


class GridStatistics:
    """Sizes of the data set's cases on the network's grid.

    Attributes:
        shape: Median shape (slice, u, v).
        ratio: Anisotropy of the grid.
        voxels: Voxels of all cases together.
    """

    def __init__(self, site: SiteFingerprint, data: DataPlan) -> None:
        along = site.cropped_extent if data.crop_nonzero else site.images.extent
        slices, u, v = (
            _median_size(along[axis].column(), step) for axis, step in zip(data.axes, data.spacing, strict=True)
        )
        self.shape = (slices, u, v)
        self.ratio = anisotropy(data.spacing) if data.dimension == 3 else 1.0
        together = site.cropped_extents if data.crop_nonzero else site.extents
        sizes = _sizes(together.values()[:, list(data.axes)], np.array(data.spacing))
        self.voxels = float(sizes.prod(axis=1) @ np.array(together.counts))


def _median_size(extents: Distribution, step: float) -> float:
    return Distribution(_sizes(extents.values, step), extents.counts).quantile(0.5)


def _sizes(extents: np.ndarray, step: float | np.ndarray) -> np.ndarray:
    """Voxels on the grid."""
    return np.maximum(1, np.round(extents / step))
