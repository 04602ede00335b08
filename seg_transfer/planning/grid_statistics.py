"""Sizes of the cases on the network's grid."""

from __future__ import annotations

import numpy as np

from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.spacing import anisotropy


class GridStatistics:
    """Sizes of the data set's cases on the network's grid.

    Attributes:
        shape: Median shape (slice, u, v).
        ratio: Anisotropy of the grid.
        voxels: Voxels of all cases together.
    """

    def __init__(self, fingerprint: Fingerprint, data: DataPlan) -> None:
        shapes = in_network_order(fingerprint, data.axes, cropped=data.crop_nonzero)
        spacings = np.array([[case.spacing[axis] for axis in data.axes] for case in fingerprint.cases])
        resampled = np.maximum(1, np.round(shapes * spacings / np.array(data.spacing)))
        slices, u, v = (float(size) for size in np.median(resampled, axis=0))
        self.shape = (slices, u, v)
        self.ratio = anisotropy(data.spacing) if data.dimension == 3 else 1.0
        self.voxels = float(resampled.prod(axis=1).sum())


def in_network_order(fingerprint: Fingerprint, axes: Triple, *, cropped: bool) -> np.ndarray:
    """Shapes of the cases, ``(case, 3)``, in the order (slice, u, v)."""
    shapes = [case.cropped_shape if cropped else case.shape for case in fingerprint.cases]
    return np.array([[shape[axis] for axis in axes] for shape in shapes], dtype=float)
