"""NIfTI, whose world coordinates are RAS+: headers are parsed by nibabel, voxels are read strictly.

Whether a file is compressed is told by its content, so that a name without or with a wrong ``.gz`` does no harm. What
the header claims is compared with the size of the file, or with what gzip can hold, before memory is allocated. The
file must end where the voxels end; gzip compares its checksum there.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.openers import ImageOpener
from nibabel.volumeutils import apply_read_scaling

from seg_transfer.data.formats.header import IN_MEMORY, Header, check_free_memory, converted, working_dtype
from seg_transfer.data.formats.label_table import CARET_CODE, caret_table
from seg_transfer.data.formats.stream import GZIP_RATIO, check_end, fill
from seg_transfer.data.geometry import Grid
from seg_transfer.data.nifti_geometry import MM, NiftiGeometry
from seg_transfer.errors import UserError
from seg_transfer.util.local_files import GZIP_MAGIC

APART = 0.1
"""sform and qform count as different if they place a corner more than this many voxels apart."""

_SCANNER = 1  # sform and qform code "scanner anatomical", which every viewer honours
_COLOURS = {128: "RGB", 2304: "RGBA"}
_LONGEST_EXTENSION = 2**26  # bytes between the header and the voxels

_HINT = "store it as a 3D volume, or a 4D one with the channels as the fourth axis"
_SILENT = logging.getLogger(f"{__name__}.repairs")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True)
class _Body:
    """The voxels in the file: shape, type with its byte order, first byte, and factors of the values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    inter: float

    @property
    def end(self) -> int:
        """Bytes of the whole content."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)


def header(path: Path) -> Header:
    """Read the header; of a compressed file only the first block is decompressed."""
    with content(path) as (stream, size):
        return _parse(stream, size, path)[0]


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, k)``; a fourth axis (a fifth, if the fourth has size 1) is the channel.

    Doubles and scaled values are converted to float32 plane by plane: a volume of doubles takes four bytes per voxel.
    """
    with content(path) as (stream, size):
        described, body = _parse(stream, size, path)
        working = working_dtype(described.dtype, label=label)
        check_free_memory(described, working, path)
        stream.seek(body.offset)
        if body.dtype.itemsize <= working.itemsize and not body.is_scaled:
            array = _values(stream, body.dtype, body.shape)
        else:
            array = np.empty(body.shape, working, order="F")
            for index in np.ndindex(body.shape[:1:-1]):  # in the order of the file: the first axis is the fastest
                plane = _values(stream, body.dtype, body.shape[:2])
                array[(..., *index[::-1])] = converted(apply_read_scaling(plane, body.slope, body.inter), working)
        check_end(stream, body.end)
    return np.moveaxis(array.reshape((*described.shape, described.channels)), -1, 0), described


def of_image(loaded: nib.spatialimages.SpatialImage) -> tuple[np.ndarray, Header]:
    """Values ``(channel, i, j, k)`` and header of an image of nibabel; its values may still lie in a file.

    An image of another format than NIfTI is described as nibabel would save it as NIfTI.
    """
    loaded = loaded if isinstance(loaded, nib.Nifti1Image) else nib.Nifti1Image.from_image(loaded)
    head = type(loaded)(loaded.dataobj, loaded.affine, loaded.header).header  # a copy, with this shape and affine
    array = np.asanyarray(loaded.dataobj)
    head.set_data_dtype(array.dtype)
    described, _ = _describe(head, IN_MEMORY)
    working = working_dtype(array.dtype, label=False)
    array = converted(array, working).reshape((*described.shape, described.channels))
    return np.moveaxis(array, -1, 0), described


def write(path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
    """Write an image of :func:`to_image`; names of labels are a table in an extension of the header."""
    image = to_image(array, grid)
    if names:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(CARET_CODE, caret_table(names)))
        image.header.set_intent("label")
    with ImageOpener(str(path), "wb") as stream:  # compresses by the ending, whatever its case
        image.to_stream(stream.fobj)


def to_image(array: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    """An image of nibabel, with the forms, codes and units of the grid's own NIfTI header, if it has one.

    Otherwise the affine becomes sform and, unless it is sheared, qform; in mm.

    Args:
        array: ``(i, j, k)`` or ``(channel, i, j, k)``.
        grid: Its grid.
    """
    if array.ndim == 4:
        array = np.moveaxis(array, 0, -1)
    if grid.flat:
        array = array.squeeze(2)
    if grid.nifti is not None:
        kind = nib.Nifti1Image if grid.nifti.version == 1 else nib.Nifti2Image
        image = kind(array, None, dtype=array.dtype)
        grid.nifti.write_to(image.header)
    else:
        image = nib.Nifti1Image(array, grid.affine, dtype=array.dtype)
        image.set_sform(grid.affine, code=_SCANNER)
        image.set_qform(grid.affine, code=_SCANNER)
        if not np.allclose(image.get_qform(), grid.affine, atol=1e-3):
            image.set_qform(None, code=0)
        image.header.set_xyzt_units("mm" if grid.unit == "mm" else "unknown")
    return image


@contextmanager
def content(path: Path) -> Iterator[tuple[BinaryIO, tuple[int, bool]]]:
    """The decompressed content, with its size and whether that is exact or only the most that gzip can hold."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.peek(2)[:2] == GZIP_MAGIC:
            with igzip.IGzipFile(fileobj=file) as stream:
                yield cast(BinaryIO, stream), (size * GZIP_RATIO, False)
        else:
            yield file, (size, True)


def _values(stream: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """The next values of the stream, in the machine's byte order."""
    array = np.empty(shape, dtype, order="F")
    fill(stream, array.T.reshape(-1).view(np.uint8).data)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array


def _parse(stream: BinaryIO, size: tuple[int, bool], path: Path) -> tuple[Header, _Body]:
    head = parse_head(stream.read(nib.Nifti2Header.sizeof_hdr), path)
    described, shape = _describe(head, path)
    body = _body(head, shape, head.get_data_dtype())
    _check_size(body, *size)
    return replace(described, dtype=np.dtype(np.float32)) if body.is_scaled else described, body


def _describe(head: Any, path: Path | str) -> tuple[Header, tuple[int, ...]]:
    """What the header says of grid, channels and type, and the shape with all axes."""
    if (colours := _COLOURS.get(int(head["datatype"]))) is not None:
        hint = "store the colours as three channels along the fourth axis, or as a 2D image such as .png"
        raise UserError(f"{colours} voxels are not supported in NIfTI", where=path, hint=hint)
    geometry = NiftiGeometry.of(head, 1 if head.sizeof_hdr == nib.Nifti1Header.sizeof_hdr else 2)
    head.check_fix(logger=_SILENT)
    dtype = head.get_data_dtype()
    if dtype.kind not in "iuf":
        hint = "store integers or real numbers, one per voxel"
        raise UserError(f"voxels of type {dtype} are not supported", where=path, hint=hint)
    shape = tuple(map(int, head.get_data_shape()))
    if not 2 <= len(shape) <= 5:
        raise UserError(f"not a 2D, 3D or 4D NIfTI volume: its shape is {shape}", where=path, hint=_HINT)
    if min(shape) < 1:
        raise UserError(f"it has no voxels: its shape is {shape}", where=path, hint="export it again")
    (i, j, k), rest = (*shape, 1)[:3], shape[3:]
    if len(rest) == 2 and rest[0] != 1:
        raise UserError(f"5D volumes are not supported: its shape is {shape}", where=path, hint=_HINT)
    affine, apart = _placement(head, (i, j, k), flat=len(shape) == 2, path=path)
    grid = Grid((i, j, k), affine, flat=len(shape) == 2, nifti=geometry)
    channels = rest[-1] if rest else 1
    return Header(grid, channels=channels, dtype=dtype.newbyteorder("="), apart=apart), shape


def parse_head(raw: bytes, path: Path) -> Any:
    """The header, whose fields are not yet checked, from the first bytes of a file."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        for endianness in "<>":
            if len(raw) >= kind.sizeof_hdr and np.frombuffer(raw, f"{endianness}i4", 1)[0] == kind.sizeof_hdr:
                head = kind(raw[: kind.sizeof_hdr], endianness, check=False)
                if head["magic"].item() == head.pair_magic:
                    hint = "store header and voxels as one .nii.gz"
                    raise UserError("this is the header of a pair of files, .hdr and .img", where=path, hint=hint)
                if head["magic"].item() != head.single_magic:
                    raise ValueError("it is no NIfTI file: its magic string is missing")
                return head
    raise ValueError("it is no NIfTI file, or cut off within its header")


def _body(head: Any, shape: tuple[int, ...], dtype: np.dtype) -> _Body:
    offset = float(head["vox_offset"])
    if not head.sizeof_hdr + 4 <= offset <= _LONGEST_EXTENSION or not offset.is_integer():
        raise ValueError(f"its header says that the voxels start at byte {offset:g}")
    slope, inter = head.get_slope_inter()
    return _Body(shape, dtype, int(offset), 1.0 if slope is None else slope, 0.0 if inter is None else inter)


def _check_size(body: _Body, size: int, is_exact: bool) -> None:
    """Compare what the header claims with the size of the content."""
    if body.end > size:
        most = "" if is_exact else "at most "
        raise ValueError(f"its header claims {body.end} bytes, but the file holds {most}{size}")
    if is_exact and body.end < size:
        raise ValueError(f"its header claims {body.end} bytes, but the file holds {size}")


def _shorten_quaternion(head: Any) -> None:
    """Bring a quaternion that rounding made longer than 1 to this length, as ITK does; nibabel refuses it."""
    names = ("quatern_b", "quatern_c", "quatern_d")
    length = np.linalg.norm([float(head[name]) for name in names])
    if length > 1:
        for name in names:
            head[name] = float(head[name]) / length


def _placement(head: Any, shape: tuple[int, int, int], *, flat: bool, path: Path | str) -> tuple[np.ndarray, float]:
    """The affine in mm: the sform, else the qform, else the spacing alone (method 1 of the NIfTI standard).

    Returns:
        The affine, and how far from it other programs may place a corner, in mm; 0 if they agree. Some use the qform,
        and ITK scales the sform to pixdim.
    """
    unit = int(head["xyzt_units"]) & 7
    if unit not in MM:
        hint = "set the unit in xyzt_units to 1 (m), 2 (mm) or 3 (micrometre)"
        raise UserError(f"its unit of length has the code {unit}, which NIfTI does not define", where=path, hint=hint)
    to_mm = np.diag([MM[unit]] * 3 + [1.0])
    _shorten_quaternion(head)
    sform = to_mm @ head.get_sform() if head["sform_code"] > 0 else None
    qform = to_mm @ head.get_qform() if head["qform_code"] > 0 else None
    for name, form in (("sform", sform), ("qform", qform)):
        if form is not None and not np.isfinite(form).all():
            raise UserError(f"its {name} is not finite", where=path, hint="export it again with a valid orientation")
    affine = sform if sform is not None else qform
    if affine is None:
        affine = to_mm @ np.diag([*(*head.get_zooms(), 1.0)[:3], 1.0]).astype(np.float64)
    if flat and not affine[:3, 2].any():
        # Some writers leave the missing axis zero, which makes the affine singular; their normal replaces it.
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) / np.prod(np.linalg.norm(affine[:3, :2], axis=0))
    if sform is None:
        return affine, 0.0
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if qform is not None:
        other = qform
    else:
        other = affine.copy()
        with np.errstate(invalid="ignore", divide="ignore"):
            other[:3, :3] *= MM[unit] * head["pixdim"][1:4] / spacing
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))]).T
    apart = float(np.linalg.norm(((other - affine) @ corners)[:3], axis=0).max())
    return affine, 0.0 if apart <= APART * spacing.min() else apart
