"""NIfTI with nibabel, whose world coordinates are RAS+."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from seg_transfer.data.formats.header import Header, converted, working_dtype
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError

_SCANNER = 1  # sform and qform code "scanner anatomical", which every viewer honours

_HINT = "store it as a 3D volume, or a 4D one with the channels as the fourth axis"


def header(path: Path) -> Header:
    """Read the header; of a compressed file only the first block is decompressed."""
    return _header(_load(path), path)


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, k)``; a fourth axis (a fifth, if the fourth has size 1) is the channel.

    Doubles and scaled values are converted to float32 plane by plane: a volume of doubles takes eight bytes per voxel.
    """
    image = _load(path)
    described = _header(image, path)
    working = working_dtype(described.dtype, label=label)
    if described.dtype.itemsize <= working.itemsize and not _is_scaled(image):
        array = np.asanyarray(image.dataobj)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    else:
        array = np.empty(image.shape, working, order="F")
        for index in np.ndindex(image.shape[:1:-1]):  # in the order of the file: the first axis is the fastest
            array[(..., *index[::-1])] = converted(image.dataobj[(..., *index[::-1])], working)
    return np.moveaxis(array.reshape((*described.shape, described.channels)), -1, 0), described


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write with the affine as sform and, unless it is sheared, as qform; in mm."""
    if array.ndim == 4:
        array = np.moveaxis(array, 0, -1)
    if grid.flat:
        array = array.squeeze(2)
    image = nib.Nifti1Image(array, grid.affine, dtype=array.dtype)
    image.set_sform(grid.affine, code=_SCANNER)
    image.set_qform(grid.affine, code=_SCANNER)
    if not np.allclose(image.get_qform(), grid.affine, atol=1e-3):
        image.set_qform(None, code=0)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def verify_to_end(path: Path) -> None:
    """Decompress to the last byte, where gzip compares length and checksum."""
    with gzip.open(path) as stream:
        while stream.read(1 << 20):
            pass


def _load(path: Path) -> Any:
    # Kept open: reading plane by plane would otherwise decompress from the beginning each time.
    image = nib.load(path, mmap=False, keep_file_open=True)
    if not isinstance(image, nib.Nifti1Pair):
        raise UserError("not a NIfTI volume", where=path, hint=_HINT)
    return image


def _header(image: Any, path: Path) -> Header:
    dtype = image.get_data_dtype().newbyteorder("=")
    if dtype.kind not in "iuf":
        hint = "store integers or real numbers, one per voxel"
        raise UserError(f"voxels of type {dtype} are not supported", where=path, hint=hint)
    if not 2 <= len(image.shape) <= 5:
        raise UserError(f"not a 2D, 3D or 4D NIfTI volume: its shape is {image.shape}", where=path, hint=_HINT)
    (i, j, k), rest = (*image.shape, 1)[:3], image.shape[3:]
    if len(rest) == 2 and rest[0] != 1:
        raise UserError(f"5D volumes are not supported: its shape is {image.shape}", where=path, hint=_HINT)
    return Header(
        grid=Grid((i, j, k), _affine(image), flat=len(image.shape) == 2),
        channels=int(rest[-1]) if rest else 1,
        dtype=np.dtype(np.float32) if _is_scaled(image) else dtype,
    )


def _is_scaled(image: Any) -> bool:
    return (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)


def _affine(image: Any) -> np.ndarray:
    """The sform, else the qform, else the spacing alone (method 1 of the NIfTI standard)."""
    if image.header["sform_code"] > 0 or image.header["qform_code"] > 0:
        affine = np.array(image.affine, dtype=np.float64)
    else:
        affine = np.diag([*(*image.header.get_zooms(), 1.0)[:3], 1.0]).astype(np.float64)
    if len(image.shape) == 2 and not affine[:3, 2].any():
        # Some writers leave the missing axis zero, which makes the affine singular; their normal replaces it.
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) / np.prod(np.linalg.norm(affine[:3, :2], axis=0))
    return affine
