"""Transforms a case to the network's grid and back; the same for preprocessing, prediction and the array API.

Forward: crop to nonzero (canonical order), permute to ``(slice, u, v)``, normalize, resample to the plan's spacing.
Normalizing comes first, so that the statistics are those of measured voxels and a clipped range stays clipped.
Backward: resample the network's probabilities to the cropped grid, decide on labels, fill the border with background,
permute back and restore the file's own orientation. Both directions work slab by slab, so that they need little memory
besides input and output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seg_transfer.data.geometry import Box, Grid, to_canonical, to_native
from seg_transfer.data.image import Image
from seg_transfer.data.nifti_geometry import NiftiGeometry
from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.fields import Triple
from seg_transfer.preprocessing.normalize import Scaling
from seg_transfer.preprocessing.resample import (
    bounding_box,
    class_dtype,
    resample,
    resample_labels,
    resampled_slabs,
)
from seg_transfer.util.records import Record

SAME_SPACING = 1e-3
"""An axis is not resampled if its spacings differ by less than this share."""


class CaseTransform(Record):
    """The transform of one case; it can be serialised, and its inverse needs nothing else.

    Example:
        >>> transform = CaseTransform.fit(image, plan.data)
        >>> array = transform.image(image)  # (channel, slice, u, v)
        >>> native, labels = transform.blank_labels(np.uint8)
        >>> labels[...] = decision  # (slice, u, v) on the grid of the crop; native is (i, j, k), as in the file
    """

    native_shape: Triple
    native_affine: tuple[tuple[float, ...], ...]
    native_flat: bool
    native_nifti: NiftiGeometry | None = None
    unit: Literal["mm", "pixel"]
    canonical_shape: Triple
    crop_start: Triple
    crop_stop: Triple
    axes: Triple
    shape: Triple
    image_orders: Triple
    label_orders: Triple
    scalings: tuple[Scaling, ...]
    classes: int

    @classmethod
    def fit(cls, image: Image, data: DataPlan) -> CaseTransform:
        """Fit the transform to one case.

        Args:
            image: The case's image.
            data: The plan's data part.

        Raises:
            UserError: If the image's number of channels, dimension or unit is not the plan's, or values are not finite.
        """
        array = image.array
        check_image(image.native, len(array), data)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise not_finite()
        nonzero = nonzero_voxels(array) if needs_nonzero(data) else None
        box = bounding_box(nonzero) if data.crop_nonzero and nonzero is not None else None
        box = box or (slice(0, array.shape[1]), slice(0, array.shape[2]), slice(0, array.shape[3]))
        scalings = [
            Scaling.fit(values[box], channel.normalization, None if nonzero is None else nonzero[box])
            for values, channel in zip(array, data.channels, strict=True)
        ]
        return cls.of(image.native, box, scalings, data)

    @classmethod
    def of(cls, native: Grid, box: Box, scalings: Sequence[Scaling], data: DataPlan) -> CaseTransform:
        """The transform of a case that was measured before.

        Args:
            native: The grid of the file.
            box: The part of the image, canonical ``(x, y, z)``, that is not cropped.
            scalings: Normalization of each channel.
            data: The plan's data part.
        """
        canonical = native.canonical()
        start, stop = _triple([part.start for part in box]), _triple([part.stop for part in box])
        spacing = [float(canonical.spacing[axis]) for axis in data.axes]
        cropped = [stop[axis] - start[axis] for axis in data.axes]
        orders = (data.slice_order, data.image_order, data.image_order)
        return cls(
            native_shape=_triple(native.shape),
            native_affine=tuple(tuple(float(entry) for entry in row) for row in native.affine),
            native_flat=native.flat,
            native_nifti=native.nifti,
            unit=native.unit,
            canonical_shape=_triple(canonical.shape),
            crop_start=start,
            crop_stop=stop,
            axes=data.axes,
            shape=_triple(list(map(_resampled_length, cropped, spacing, data.spacing))),
            image_orders=orders,
            label_orders=_triple([min(order, 1) for order in orders]),
            scalings=tuple(scalings),
            classes=len(data.stored_values),
        )

    def image(self, image: Image) -> NDArray[np.float32]:
        """The network's input ``(channel, slice, u, v)`` from the image that the transform was fitted to."""
        result = np.empty((len(self.scalings), *self.shape), np.float32)
        for channel, start, slab in self.slabs(image):
            result[channel, start : start + len(slab)] = slab
        return result

    def slabs(self, image: Image) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yield the result of :meth:`image` in slabs: channel, first slice, and the slab ``(n, u, v)``."""
        cropped = self._permuted(image.array)
        for channel, scaling in enumerate(self.scalings):

            def read(slices: slice, channel: int = channel, scaling: Scaling = scaling) -> NDArray[np.float32]:
                nonzero = nonzero_voxels(cropped[:, slices]) if scaling.mask else None
                return scaling.apply(cropped[channel, slices], nonzero)

            for start, slab in resampled_slabs(read, cropped.shape[1:], self.shape, self.image_orders):
                yield channel, start, slab

    def label(self, classes: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """Class indices ``(slice, u, v)`` on the network's grid: each class is interpolated, and the highest wins.

        Voxels that are not annotated are a class, the last one.

        Args:
            classes: Class indices, canonical ``(x, y, z)``, on the grid of the image.
        """
        cropped = self._permuted(classes).astype(class_dtype(self.classes), order="C", copy=False)
        return cropped if cropped.shape == self.shape else resample_labels(cropped, self.shape, self.label_orders)

    def blank_labels(self, dtype: DTypeLike) -> tuple[NDArray, NDArray]:
        """An empty label map, with a view of its crop to write to.

        Args:
            dtype: Type of its values.

        Returns:
            The map in the file's own order ``(i, j, k)``, and the view of the crop ``(slice, u, v)``.
        """
        native = np.zeros(self.native_shape, dtype, order="F")  # the order of NIfTI: slices are contiguous
        return native, self._permuted(to_canonical(native, self.native))

    def restore_probabilities(self, probabilities: NDArray[np.floating], data: DataPlan) -> NDArray[np.float32]:
        """Probabilities ``(output, i, j, k)`` in the file's own order; outside the crop background is 1, regions are 0.

        Args:
            probabilities: ``(output, slice, u, v)``.
            data: The plan's data part that the transform was fitted with.
        """
        canonical = np.zeros((len(probabilities), *self.canonical_shape), np.float32)
        if not data.regions:
            canonical[0] = 1
        for index, target in enumerate(self._crop(canonical)):
            values = resample(probabilities[index], self.cropped_shape, self.label_orders)
            target[...] = values.transpose(np.argsort(self.axes))
        return np.ascontiguousarray(to_native(canonical, self.native))

    @property
    def native(self) -> Grid:
        """The voxel grid of the file."""
        affine = np.array(self.native_affine)
        return Grid(self.native_shape, affine, self.unit, self.native_flat, self.native_nifti)

    @property
    def cropped_shape(self) -> Triple:
        """``(slice, u, v)`` of the crop, in voxels of the file."""
        return _triple([self.crop_stop[axis] - self.crop_start[axis] for axis in self.axes])

    def canonical_box(self, box: Box) -> Box:
        """The box ``(x, y, z)`` of the image that a box ``(slice, u, v)`` of its crop is."""
        placed = {axis: (self.crop_start[axis], part) for axis, part in zip(self.axes, box, strict=True)}
        x, y, z = (slice(first + part.start, first + part.stop) for first, part in (placed[axis] for axis in range(3)))
        return x, y, z

    def cropped_box(self, box: Box) -> Box | None:
        """The box ``(slice, u, v)`` of the crop that lies in a box ``(x, y, z)`` of the image; None if nothing does."""
        found = []
        for axis in self.axes:
            first, size = self.crop_start[axis], self.crop_stop[axis] - self.crop_start[axis]
            found.append(slice(max(0, box[axis].start - first), min(size, box[axis].stop - first)))
        return None if any(part.start >= part.stop for part in found) else (found[0], found[1], found[2])

    def _permuted(self, array: NDArray) -> NDArray:
        """View of the crop of ``(..., x, y, z)`` as ``(..., slice, u, v)``."""
        leading = array.ndim - 3
        return self._crop(array).transpose(*range(leading), *(leading + axis for axis in self.axes))

    def _crop(self, array: NDArray) -> NDArray:
        """View of the crop of ``(..., x, y, z)``."""
        x, y, z = map(slice, self.crop_start, self.crop_stop)
        return array[..., x, y, z]


def check_image(native: Grid, channels: int, data: DataPlan) -> None:
    """Check that an image has the channels, the dimension and the unit of a plan.

    Raises:
        UserError: If it does not.
    """
    if channels != len(data.channels):
        names = ", ".join(channel.name for channel in data.channels)
        hint = "give one image per channel, in this order"
        raise UserError(f"{channels} channel(s), the plan has {len(data.channels)} ({names})", hint=hint)
    slices = native.canonical().shape[data.axes[0]]
    if native.unit != data.unit or (data.dimension == 2 and slices > 1):
        raise UserError(
            f"an image of {slices} slice(s) with its spacing in {native.unit}, but the plan was made for "
            f"{'2D images' if data.dimension == 2 else 'volumes'} in {data.unit}",
            hint="give images like those of the data set that was planned",
        )


def not_finite() -> UserError:
    """The error for an image with values that are not finite, where the plan does not fill them."""
    hint = "fix the image, or plan with --nan fill"
    return UserError("the image has values that are not finite (nan or infinite)", hint=hint)


def needs_nonzero(data: DataPlan) -> bool:
    """Whether a plan distinguishes voxels that are zero in every channel."""
    return data.crop_nonzero or any(channel.normalization.mask for channel in data.channels)


def nonzero_voxels(array: NDArray) -> NDArray[np.bool_]:
    """Where any channel is nonzero."""
    result = array[0] != 0
    for channel in array[1:]:
        result |= channel != 0
    return result


def _resampled_length(length: int, spacing: float, target: float) -> int:
    if abs(spacing / target - 1) < SAME_SPACING:
        return length
    return max(1, round(length * spacing / target))


def _triple(values: Sequence[int]) -> Triple:
    first, second, third = values
    return int(first), int(second), int(third)
