"""Intensity normalization: the plan's rule for a channel, applied to one case."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import Normalization
from seg_transfer.util.records import Record

MEASURED = ("zscore",)
"""Kinds of normalization that depend on the case's own voxels."""


class Scaling(Record):
    """Normalization of one channel of one case: ``(clip(value) - shift) / scale``."""

    shift: float
    scale: float
    lower: float | None = None
    upper: float | None = None
    mask: bool = False

    @classmethod
    def fit(cls, values: NDArray, rule: Normalization, nonzero: NDArray[np.bool_] | None) -> Scaling:
        """Fit to one case; a constant channel gets scale 1, so that it becomes 0 and not nan.

        Args:
            values: The cropped channel, of any shape.
            rule: The plan's rule for this channel.
            nonzero: Mask of the voxels where any channel is nonzero; same shape. Needed if the rule uses the mask.
        """
        measured = rule.kind in MEASURED
        mean, std = _mean_std(values, nonzero if rule.mask else None) if measured else (0.0, 1.0)
        return cls.of(rule, mean, std)

    @classmethod
    def of(cls, rule: Normalization, mean: float, std: float) -> Scaling:
        """As :meth:`fit`, from mean and std of the case's voxels, which the rules in :data:`MEASURED` need."""
        if rule.kind == "clip_zscore":
            assert rule.mean is not None and rule.std is not None
            return cls(shift=rule.mean, scale=rule.std, lower=rule.lower, upper=rule.upper)
        if rule.kind == "minmax":
            assert rule.lower is not None and rule.upper is not None
            return cls(shift=rule.lower, scale=rule.upper - rule.lower, lower=rule.lower, upper=rule.upper)
        if rule.kind == "none":
            return cls(shift=0.0, scale=1.0)
        # Rounding gives a constant image a tiny std; dividing by it would amplify the rounding.
        constant = std <= 1e-7 * max(abs(mean), 1e-30)
        return cls(shift=mean, scale=1.0 if constant else std, mask=rule.mask)

    def apply(self, values: NDArray, nonzero: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Normalized, contiguous copy of one channel or of a part of it.

        Args:
            values: The cropped channel.
            nonzero: Mask of the voxels where any channel is nonzero; the others become 0. Needed with :attr:`mask`.
        """
        result = values.astype(np.float32, order="C")
        if self.lower is not None or self.upper is not None:
            np.clip(result, self.lower, self.upper, out=result)
        result -= np.float32(self.shift)
        result /= np.float32(self.scale)
        if self.mask:
            assert nonzero is not None
            result[~nonzero] = 0
        return result


def _mean_std(values: NDArray, chosen: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Mean and std in double precision, plane by plane: a copy of the volume would take eight bytes per voxel."""
    slowest = int(np.argmax(np.abs(values.strides)))
    planes = np.moveaxis(values, slowest, 0)
    masks = itertools.repeat(...) if chosen is None else np.moveaxis(chosen, slowest, 0)
    count = values.size if chosen is None else int(chosen.sum())
    if count == 0:
        return 0.0, 1.0
    mean = sum(float(plane[mask].sum(dtype=np.float64)) for plane, mask in zip(planes, masks, strict=False)) / count
    squares = (((plane[mask] - np.float64(mean)) ** 2).sum() for plane, mask in zip(planes, masks, strict=False))
    return mean, float((sum(squares) / count) ** 0.5)
