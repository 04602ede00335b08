"""Reads and writes :class:`Image`, whose array is canonical ``(channel, x, y, z)`` in RAS+.

An image keeps the grid of its file (``Image.native``), so that results can be written in the file's own order,
orientation and geometry::

    image = read_image([Path("ct.nii.gz"), Path("pet.nii.gz")])
    mask = image.array[0] > 100
    write_volume(Path("mask.nii.gz"), to_native(mask.astype(np.uint8), image.native), image.native)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.spatialimages import SpatialImage

from seg_transfer.data.formats import check_affine, itk, nifti, read_array, read_header
from seg_transfer.data.formats.header import IN_MEMORY, Header, check_same_grid, converted, working_dtype
from seg_transfer.data.geometry import Grid, Unit, affine_spacing, to_canonical
from seg_transfer.data.segmentation import merged, not_an_image, placed
from seg_transfer.errors import UserError

WHOLE_TOLERANCE = 1e-3
"""Largest distance of a float label from a whole number: writers that scale 8-bit labels leave such remainders."""


@dataclass(frozen=True, eq=False)
class Image:
    """One case's image or label.

    Attributes:
        array: ``(channel, x, y, z)`` in canonical order, not necessarily contiguous. Images: integers of up to 16 bits
            with their stored type, else float32. Labels: integers.
        affine: 4 x 4, canonical voxel ``(x, y, z)`` -> world (RAS+).
        native: The grid of the (first) file, in its own order.
        stored_dtype: Type of the values on disk, if it differs from the array's.
    """

    array: np.ndarray
    affine: np.ndarray
    native: Grid
    stored_dtype: np.dtype | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along ``(x, y, z)``, in :attr:`unit`."""
        return affine_spacing(self.affine)

    @property
    def unit(self) -> Unit:
        """Unit of the spacing."""
        return self.native.unit

    @property
    def dtype(self) -> np.dtype:
        """Type of the values on disk; integers that the file scales by a factor count as float."""
        return self.array.dtype if self.stored_dtype is None else self.stored_dtype


def read_image(paths: Sequence[Path]) -> Image:
    """Read one case's image; see :class:`Image` for its type.

    Args:
        paths: Files of one or more channels each (a 4D volume, an RGB image), in the order of the channels. They may
            have different orientations but must have the same grid in the world.

    Raises:
        UserError: If a file is missing or damaged or a segmentation, or the files' grids differ.
    """
    headers: list[Header] = []
    for path in paths:
        header = read_header(path)
        if header.segments is not None:
            raise not_an_image(path)
        headers.append(header)
        check_same_grid(headers[0], header, paths[0], path)
    native, stored = headers[0].grid, np.result_type(*(header.dtype for header in headers))
    canonical = native.canonical()
    if len(paths) == 1:
        array = to_canonical(read_array(paths[0], label=False)[0], native)
    else:
        x, y, z = canonical.shape
        channels = [header.channels for header in headers]
        # Slices across z are contiguous, as in NIfTI files.
        array = np.empty((sum(channels), z, y, x), working_dtype(stored, label=False)).transpose(0, 3, 2, 1)
        for path, header, target in zip(paths, headers, np.split(array, np.cumsum(channels)[:-1]), strict=True):
            target[...] = to_canonical(read_array(path, label=False)[0], header.grid)
    return Image(array, canonical.affine, native, stored)


def filled(image: Image) -> Image:
    """Replace values that are not finite (nan, infinite) by the least finite one of their channel, or 0 without one.

    Scanners and resampling write them where nothing was measured, which is where images are darkest. Whole images are
    returned as they are.
    """
    if image.array.dtype.kind != "f" or np.isfinite(image.array).all():
        return image
    array = image.array.copy()
    for channel in array:
        finite = np.isfinite(channel)
        channel[~finite] = channel[finite].min() if finite.any() else 0
    return replace(image, array=array)


def read_label(path: Path, *, grid: Grid | None = None, names: Mapping[str, int] | None = None) -> Image:
    """Read a label map as ``(1, x, y, z)`` of an integer type, with the values of the file.

    A label map without a pixel size, as 2D images are, lies on the pixels of an OME-TIFF image of its shape. A
    segmentation of 3D Slicer, which may be cropped, is placed into the grid of its image, with the values that belong
    to the names of its segments; its layers become one.

    Args:
        path: The file.
        grid: Of the case's image, for a segmentation and a label map without a pixel size; None leaves these on their
            own. Other label maps keep their grid.
        names: Label name -> value, for a segmentation.

    Raises:
        UserError: If the file is missing or damaged, has several channels, or has values that are not whole numbers; if
            a segmentation has segments of other names or that overlap, or does not lie on the voxels of its image.
    """
    array, header = read_array(path, label=True)
    if len(array) != 1 and header.segments is None:
        raise UserError(f"a label has 1 channel, not {len(array)}", where=path, hint="store one value per voxel")
    if array.dtype.kind == "f":
        array = _whole_numbers(array, path)
    native = header.grid
    if grid is not None and _is_unplaced(native, grid):
        native = grid
    if header.segments is not None:
        array = merged(array, header.segments, names, path)
    array = to_canonical(array, native)
    if header.segments is not None and grid is not None:
        array, native = placed(array, native, grid, path), grid
    return Image(array, native.canonical().affine, native, header.dtype)


def _is_unplaced(label: Grid, image: Grid) -> bool:
    """Whether a label map has pixels alone, and its image, of the same shape, is in mm and runs along the same axes."""
    if label.unit == image.unit or label.unit != "pixel" or label.shape != image.shape or image.nifti is not None:
        return False
    diagonal = image.affine.diagonal()
    return bool((image.affine == np.diag(diagonal)).all() and (diagonal > 0).all())


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    """Float labels as integers, converted plane by plane to save memory."""
    result = np.empty(array.shape, np.int32, order="F")
    limit = 2**31 if array.dtype.itemsize > 4 else 2**24  # from which on float32 rounds whole numbers
    fractional: list[np.ndarray] = []
    for k in range(array.shape[-1]):
        plane = array[..., k]
        whole = np.rint(plane)
        with np.errstate(invalid="ignore"):
            fractional.append(plane[~(np.abs(plane - whole) <= WHOLE_TOLERANCE)])
            if (beyond := whole[np.isfinite(whole) & (np.abs(whole) >= limit)]).size:
                what = f"the label value {beyond[0]:.0f} is too large for floating-point numbers"
                raise UserError(what, where=path, hint="store label maps as integers, or number the labels from 1")
            result[..., k] = whole
    if count := sum(values.size for values in fractional):
        raise UserError(
            f"label values must be whole numbers, but {np.concatenate(fractional)[0]:g} occurs ({count} such voxels)",
            where=path,
            hint="resample labels with nearest neighbour interpolation",
        )
    return result


def image_from_array(array: np.ndarray, spacing: Sequence[float], unit: Unit = "mm") -> Image:
    """Make an image of an array in memory, in canonical order.

    Args:
        array: ``(channel, x, y, z)`` or ``(x, y, z)``.
        spacing: Distance between voxel centres along ``(x, y, z)``.
        unit: Unit of the spacing.

    Raises:
        UserError: If the array does not have 3 or 4 axes, is empty, not numeric, masked or not finite, or the spacing
            is not 3 positive numbers.
    """
    array = _usable(array)
    if array.ndim not in (3, 4) or array.dtype.kind not in "iufb" or not array.size:
        raise UserError(f"an image array is (channel, x, y, z) or (x, y, z) of numbers, not {array.dtype}{array.shape}")
    sizes = np.asarray(spacing, object)
    with suppress(ValueError, TypeError):
        sizes = sizes.astype(float)
    if sizes.shape != (3,) or sizes.dtype.kind != "f" or not ((sizes > 0) & np.isfinite(sizes)).all():
        raise UserError(f"spacing must be 3 positive numbers (x, y, z), not {spacing}")
    affine = np.diag([*sizes.astype(float), 1.0])
    volume = array if array.ndim == 4 else array[np.newaxis]
    volume = np.ascontiguousarray(volume, working_dtype(array.dtype, label=False))
    x, y, z = volume.shape[1:]
    return Image(volume, affine, Grid((x, y, z), affine, unit), array.dtype)


def image_with_affine(array: np.ndarray, affine: np.ndarray) -> Image:
    """Make an image of an array in any order of axes.

    Args:
        array: ``(channel, i, j, k)`` or ``(i, j, k)``.
        affine: 4 x 4, voxel ``(i, j, k)`` -> world (RAS+), in mm.

    Raises:
        UserError: As :func:`image_from_array` does, or if the affine is not a 4 x 4 matrix of numbers, singular, or its
            spacing absurd.
    """
    plain = image_from_array(array, (1.0, 1.0, 1.0))
    try:
        matrix = np.asarray(affine, float)
    except (ValueError, TypeError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or (matrix[3] != (0, 0, 0, 1)).any():
        what = "an affine is a 4 x 4 matrix of numbers, whose last row is 0 0 0 1"
        raise UserError(f"{what}, not {affine}", where="affine")
    header = Header(Grid(plain.native.shape, matrix), channels=len(plain.array), dtype=plain.dtype)
    return placed_image(plain.array, header)


def image_in_memory(image: object) -> Image:
    """Make an image of one of nibabel or SimpleITK, as if it were read from a file.

    Raises:
        UserError: If it is neither of them, or its type, axes or affine are not supported.
    """
    if isinstance(image, SpatialImage):
        array, header = nifti.of_image(image)
    elif "SimpleITK" in sys.modules and isinstance(image, sys.modules["SimpleITK"].Image):
        array, header = itk.of_image(image)
    else:
        hint = "give a numpy array, or an image of nibabel or SimpleITK"
        raise UserError(f"an image is expected, not {type(image).__name__}", hint=hint)
    if header.segments is not None:
        raise not_an_image(IN_MEMORY)
    return placed_image(converted(array, working_dtype(array.dtype, label=False)), header)


def placed_image(array: np.ndarray, header: Header) -> Image:
    """The image of ``(channel, i, j, k)`` with its working type, and the header it has.

    Raises:
        UserError: If its affine is singular or its spacing absurd.
    """
    check_affine(header, IN_MEMORY)
    native = header.grid
    return Image(to_canonical(array, native), native.canonical().affine, native, header.dtype)


def image_from_pixels(array: np.ndarray) -> Image:
    """Make an image of a 2D image in memory, as numpy and pillow have it.

    Args:
        array: ``(row, column)`` or ``(row, column, channel)``.

    Raises:
        UserError: If the array has other axes, is empty, not numeric, masked or not finite.
    """
    array = _usable(array)
    if array.ndim not in (2, 3) or array.dtype.kind not in "iufb" or not array.size:
        what = "a 2D image array is (row, column) or (row, column, channel) of numbers"
        raise UserError(f"{what}, not {array.dtype}{array.shape}")
    channels = array.reshape((*array.shape[:2], -1)).transpose(2, 1, 0)[..., np.newaxis]
    return image_from_array(channels, (1.0, 1.0, 1.0), "pixel")


def _usable(array: np.ndarray) -> np.ndarray:
    """The array without a mask; one that hides values, or has values that are not finite, is refused."""
    if np.ma.is_masked(array):
        raise UserError("the array is masked", hint="fill the masked values, as with array.filled(0)")
    array = np.asarray(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = array.size - int(np.isfinite(array).sum())
        hint = "replace them, for instance with the value of air or with 0"
        raise UserError(f"{count} of {array.size} values of the array are not finite (nan or inf)", hint=hint)
    return array
