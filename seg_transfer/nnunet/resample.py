"""nnU-Net's resampling: slice by slice where slices lie far apart, else in 3D.

Splines are those of :mod:`seg_transfer.preprocessing.resample`, which are scipy's, as in nnU-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from seg_transfer.data.nnunet import NnunetPlans
from seg_transfer.errors import UserError
from seg_transfer.nnunet.model_folder import NOT_READ
from seg_transfer.preprocessing.resample import Floats, resample
from seg_transfer.util.records import wrong_fields

FAR_APART = 3
"""Slices are resampled one by one if their distance is more than so many times the finest spacing."""


class Resampling(BaseModel):
    """How a configuration of nnU-Net resamples images, or logits.

    Attributes:
        order: Spline order; within slices if these lie far apart.
        order_z: Spline order across slices that lie far apart.
        force_separate_z: Whether slices are resampled one by one; None: where they lie far apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    is_seg: Literal[False] = False
    order: Literal[0, 1, 3] = 3
    order_z: Literal[0, 1, 3] = 0
    force_separate_z: bool | None = False

    def apply(
        self, volumes: NDArray[Any], shape: Sequence[int], before: Sequence[float], after: Sequence[float]
    ) -> Any:
        """Resample volumes to a shape that covers the same box.

        Args:
            volumes: ``(channel, first, second, third)``.
            shape: The new shape.
            before: Spacing of the volumes.
            after: Spacing of the result.

        Returns:
            Volumes of the same type.
        """
        if volumes.shape[1:] == tuple(shape):
            return volumes
        result = np.empty((len(volumes), *shape), volumes.dtype)
        axis = self.slice_axis(before, after)
        for volume, target in zip(volumes, result, strict=True):
            target[...] = (
                resample(volume, shape, (self.order,) * 3) if axis is None else self._slices(volume, shape, axis)
            )
        return result

    def slice_axis(self, before: Sequence[float], after: Sequence[float]) -> int | None:
        """The axis across slices that are resampled one by one; None if volumes are resampled in 3D."""
        if self.force_separate_z is False:
            return None
        for spacing in (before, after):
            if self.force_separate_z or max(spacing) / min(spacing) > FAR_APART:
                coarsest = [axis for axis, step in enumerate(spacing) if step == max(spacing)]
                return coarsest[0] if len(coarsest) == 1 else None
        return None

    def _slices(self, volume: NDArray[Any], shape: Sequence[int], axis: int) -> Floats:
        planes, (count, *plane) = np.moveaxis(volume, axis, 0), (shape[axis], *np.delete(shape, axis).tolist())
        # One by one: overshoots of cubic splines are clipped to the range of each slice.
        resampled = [resample(each[np.newaxis], (1, *plane), (0, self.order, self.order)) for each in planes]
        return np.moveaxis(resample(np.concatenate(resampled), (count, *plane), (self.order_z, 0, 0)), 0, axis)


def resampling(settings: dict[str, Any], plans: NnunetPlans) -> Resampling:
    """Read the settings of plans.

    Raises:
        UserError: If there are unknown ones.
    """
    try:
        return Resampling.model_validate(settings)
    except ValidationError as error:
        what = f"the images are resampled in a way that is not known: {'; '.join(wrong_fields(error))}"
        raise UserError(what, where=plans.path, hint=NOT_READ) from None
