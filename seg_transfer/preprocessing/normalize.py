"""Intensity normalization of one channel: the plan's rule, and the figures it comes to for one case."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.data_plan import Normalization
from seg_transfer.util.records import Part


class Scaling(Part):
    """What happens to every intensity of one channel of one case: ``(clip(value) - shift) / scale``."""

    shift: float
    scale: float
    lower: float | None = None
    upper: float | None = None
    mask: bool = False

    @classmethod
    def fit(cls, values: NDArray, rule: Normalization, nonzero: NDArray[np.bool_] | None) -> Scaling:
        """Figures for one case.

        Args:
            values: The channel, cropped; any shape.
            rule: What the plan says for this channel.
            nonzero: Where any channel of the case is nonzero; same shape. Needed if the rule asks for the mask.

        An image of one single value gets scale 1, so that it becomes zero and not nan.
        """
        if rule.kind == "clip_zscore":
            assert rule.mean is not None and rule.std is not None
            return cls(shift=rule.mean, scale=rule.std, lower=rule.lower, upper=rule.upper)
        if rule.kind == "minmax":
            assert rule.lower is not None and rule.upper is not None
            return cls(shift=rule.lower, scale=rule.upper - rule.lower, lower=rule.lower, upper=rule.upper)
        if rule.kind == "none":
            return cls(shift=0.0, scale=1.0)
        mean, std = _mean_std(values, nonzero if rule.mask else None)
        # Rounding leaves a constant image with a tiny std; dividing by it would blow the rounding up.
        constant = std <= 1e-7 * max(abs(mean), 1e-30)
        return cls(shift=mean, scale=1.0 if constant else std, mask=rule.mask)

    def apply(self, values: NDArray, nonzero: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Normalized copy, contiguous, of one channel or of a part of it.

        Args:
            values: The channel, cropped.
            nonzero: Where any channel of the case is nonzero; elsewhere the result is 0. Needed if there is a mask.
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
    """Of the chosen values, in double precision but plane by plane: a copy of a volume would be eight bytes a voxel."""
    slowest = int(np.argmax(np.abs(values.strides)))
    planes = np.moveaxis(values, slowest, 0)
    masks = itertools.repeat(...) if chosen is None else np.moveaxis(chosen, slowest, 0)
    count = values.size if chosen is None else int(chosen.sum())
    if count == 0:
        return 0.0, 1.0
    mean = sum(float(plane[mask].sum(dtype=np.float64)) for plane, mask in zip(planes, masks, strict=False)) / count
    squares = (((plane[mask] - np.float64(mean)) ** 2).sum() for plane, mask in zip(planes, masks, strict=False))
    return mean, float((sum(squares) / count) ** 0.5)
