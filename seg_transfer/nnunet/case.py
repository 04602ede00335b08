"""A case on the grid of an nnU-Net model, and back: axes, crop, normalization, resampling, as nnU-Net does them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg_transfer.data.geometry import Grid, to_native
from seg_transfer.data.image import Image
from seg_transfer.data.nnunet import NnunetPlans
from seg_transfer.errors import UserError
from seg_transfer.inference.classes import decide, label_values
from seg_transfer.nnunet.normalize import SCHEMES
from seg_transfer.nnunet.resample import resampling
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.resample import Floats

FLAT_SPACING = 999.0
"""Spacing across a 2D image, in units of its pixels: nnU-Net takes it for a volume of one slice."""
LARGEST_SIDE = 2**24
"""Voxels along an axis after resampling, above which a file's spacing must be wrong."""


@dataclass(frozen=True, eq=False)
class NnunetCase:
    """How one image lies on the model's grid. Axes are nnU-Net's, in the order of ``transpose_forward``.

    Attributes:
        plans: The model's plans.
        native: Grid of the file.
        whole: Shape of the image.
        box: The part that is not cut away, since it is not zero.
        spacing: Of the image.
    """

    plans: NnunetPlans
    native: Grid
    whole: tuple[int, ...]
    box: tuple[slice, ...]
    spacing: tuple[float, ...]

    @property
    def cropped(self) -> tuple[int, ...]:
        """Shape of the part that is not cut away."""
        return tuple(part.stop - part.start for part in self.box)

    @property
    def target(self) -> tuple[float, ...]:
        """Spacing of the model's grid; a 2D model leaves slices where they are."""
        wanted = self.plans.configuration.spacing
        return wanted if len(wanted) == 3 else (self.spacing[0], *wanted)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape on the model's grid."""
        steps = zip(self.cropped, self.spacing, self.target, strict=True)
        sides = [before / after * size for size, before, after in steps]
        if not all(0.5 < side < LARGEST_SIDE for side in sides):
            found, wanted = (" x ".join(f"{step:.4g}" for step in each) for each in (self.spacing, self.target))
            what = f"its spacing of {found} cannot be resampled to the model's, {wanted}"
            raise UserError(what, hint="correct the spacing of the file")
        return tuple(round(side) for side in sides)

    def labels(self, logits: NDArray[np.float16], data: DataPlan) -> NDArray[np.integer]:
        """The label map ``(i, j, k)`` in the file's axis order.

        Args:
            logits: ``(output, ...)`` on the model's grid.
            data: The model's labels.
        """
        values = self._resampled(logits)
        # As nnU-Net, compare logits where labels exclude each other: softmax would decide ties of float16 otherwise.
        winner = decide(_sigmoid(values) if data.regions else values, data)
        whole = np.zeros(self.whole, label_values(data).dtype)
        whole[self.box] = label_values(data)[winner]
        return self._to_file(whole)

    def restore_probabilities(self, logits: NDArray[np.float16], data: DataPlan) -> Floats:
        """Probabilities ``(output, i, j, k)`` of logits; outside the crop background is 1, regions are 0."""
        values = self._resampled(logits).astype(np.float32)
        whole = np.zeros((len(values), *self.whole), np.float32)
        if data.regions:
            whole[:, *self.box] = _sigmoid(values)
        else:
            whole[0] = 1
            raised = np.exp(values - values.max(axis=0))
            whole[:, *self.box] = raised / raised.sum(axis=0)
        return self._to_file(whole)

    def _resampled(self, logits: NDArray[np.float16]) -> NDArray[np.float16]:
        settings = resampling(self.plans.configuration.resampling_fn_probabilities_kwargs, self.plans)
        return settings.apply(logits, self.cropped, self.target, self.spacing)

    def _to_file(self, array: NDArray) -> NDArray:
        """``(..., first, second, third)`` in the file's axis order ``(..., i, j, k)``."""
        lead = array.ndim - 3
        stored = array.transpose(*range(lead), *(np.argsort(self.plans.transpose) + lead))
        turned = stored.transpose(*range(lead), lead + 2, lead + 1, lead)
        return np.ascontiguousarray(to_native(turned, self.native) if self.plans.reoriented else turned)


def fit(image: Image, plans: NnunetPlans) -> tuple[NnunetCase, Floats, NDArray[np.bool_]]:
    """Turn and crop an image as nnU-Net does.

    Returns:
        The case; a copy of the image's part ``(channel, first, second, third)``; and the mask of what is not zero in
        any channel, with holes filled.
    """
    array = image.array if plans.reoriented else to_native(image.array, image.native)
    grid = image.native.canonical() if plans.reoriented else image.native
    steps = grid.spacing[::-1]
    if grid.flat:
        steps = (FLAT_SPACING * max(steps[1:]), *steps[1:])
    array = array.transpose(0, *(3 - axis for axis in plans.transpose))
    mask = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    mask = ndimage.binary_fill_holes(mask)
    found = ndimage.find_objects(mask.astype(np.uint8))
    box = found[0] if found else tuple(slice(0, size) for size in mask.shape)
    spacing = tuple(steps[axis] for axis in plans.transpose)
    case = NnunetCase(plans, image.native, tuple(mask.shape), box, spacing)
    return case, np.array(array[:, *box], np.float32, order="C"), mask[box]


def normalized(case: NnunetCase, part: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Normalize the channels of :func:`fit` in place, and resample them to the model's grid."""
    plans = case.plans
    chosen = plans.configuration
    rules = zip(chosen.normalization_schemes, chosen.use_mask_for_norm, plans.intensities, strict=True)
    for channel, (scheme, masked, figures) in zip(part, rules, strict=True):
        SCHEMES[scheme](channel, mask if masked and mask.any() else None, figures)
    settings = resampling(chosen.resampling_fn_data_kwargs, plans)
    return settings.apply(part, case.shape, case.spacing, case.target)


def grid_bytes(case: NnunetCase, channels: int, outputs: int) -> int:
    """Most bytes that the arrays of a case take: image, logits of two folds and the sum of weights."""
    on_grid = math.prod(case.shape) * (8 * channels + 4 * outputs + 2)
    return on_grid + math.prod(case.cropped) * (4 * channels + 2 * outputs) + 2 * math.prod(case.whole)


def _sigmoid(values: NDArray[np.floating]) -> Floats:
    return np.float32(1) / (np.float32(1) + np.exp(-values.astype(np.float32)))
