"""File formats, chosen by the ending: NIfTI (nibabel), MetaImage and NRRD (SimpleITK), TIFF and 2D images (pillow).

OME-Zarr images (zarr) are folders, and a folder of masks is a label map (``masks.py``); what is said here of files
holds for them too.

The segmentations of 3D Slicer are NRRD files with a list of segments in their header (``Header.segments``).

Every format reads a file as ``(channel, i, j, k)`` in the file's own order with its :class:`Header`, and writes
``(i, j, k)`` or ``(channel, i, j, k)``.
"""

from __future__ import annotations

import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from PIL import Image as Pillow

from seg_transfer.data.formats import itk, masks, nifti, ome_zarr, raster, tiff
from seg_transfer.data.formats.header import Header, converted, working_dtype
from seg_transfer.data.formats.itk_body import data_file
from seg_transfer.data.formats.masks import is_masks, masks_in
from seg_transfer.data.geometry import Grid, Unit
from seg_transfer.errors import UserError, cause_of
from seg_transfer.util.extras import Extra, check_extra
from seg_transfer.util.files import whole_file, whole_folder
from seg_transfer.util.remote import fetched
from seg_transfer.util.units import SPACINGS


class Format(Protocol):
    """The interface of a format's module."""

    def header(self, path: Path) -> Header:
        """Read the header, as cheaply as the format allows."""

    def read(self, path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
        """Read ``(channel, i, j, k)`` in the file's own order; ``label``: read label values in place of colours.

        Values have the stored type, or that of :func:`working_dtype`.
        """

    def write(self, path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
        """Write ``(i, j, k)`` or ``(channel, i, j, k)`` in the file's own order, with names of labels if it can."""


SEGMENTATION_ENDING = ".seg.nrrd"
"""What 3D Slicer saves segmentations as; these are labels, never images."""

_FORMATS: dict[str, Format] = {
    ".nii.gz": nifti,
    ".nii": nifti,
    ".mha": itk,
    ".mhd": itk,
    SEGMENTATION_ENDING: itk,  # before .nrrd, which it ends with
    ".nrrd": itk,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".gif"), raster),
    **dict.fromkeys((*tiff.OME_ENDINGS, ".tif", ".tiff"), tiff),  # in this order: the last ones end the first ones too
    **dict.fromkeys(ome_zarr.ENDINGS, ome_zarr),
}

ENDINGS = tuple(ending for ending in _FORMATS if ending != SEGMENTATION_ENDING)
"""The supported endings of images; case does not matter."""

NIFTI_ENDINGS = tuple(ending for ending, format_ in _FORMATS.items() if format_ is nifti)

_OF_ITK = tuple(ending for ending, format_ in _FORMATS.items() if format_ is itk)

TIFF_ENDINGS = tuple(ending for ending, format_ in _FORMATS.items() if format_ is tiff)

ZARR_ENDINGS = ome_zarr.ENDINGS
"""Of images that are folders, and may be larger than memory."""

RASTER_ENDINGS = tuple(ending for ending in ENDINGS if _FORMATS[ending] is raster or ending in (".tif", ".tiff"))
"""Of 2D images without a physical pixel size; TIFF may also be a stack, or have one."""

_OF_ANY_UNIT = (*TIFF_ENDINGS, *ZARR_ENDINGS)

LOSSY_ENDINGS = (".jpg", ".jpeg")
"""Compression changes values, so that labels cannot be kept in them."""

READ_ONLY_ENDINGS = (*LOSSY_ENDINGS, ".gif")
"""Label maps of such images are written as ``.png``."""

_BROKEN = (
    OSError,
    EOFError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    SyntaxError,
    struct.error,
    zlib.error,
    cast(type[Exception], IsalError),  # its stub has an instance
    ImageFileError,
    HeaderDataError,
    Pillow.DecompressionBombError,
)
"""Exceptions of the three libraries for a file that is damaged or not of its ending's format; mutated files raise each
of them."""


def is_supported(path: Path) -> bool:
    """Whether the file's name has a supported ending."""
    return path.name.lower().endswith(ENDINGS)


def is_zarr(path: Path) -> bool:
    """Whether the path is named as an OME-Zarr image, which is a folder."""
    return path.name.lower().endswith(ZARR_ENDINGS)


def is_there(path: Path) -> bool:
    """Whether there is such an image: a file, the folder of an OME-Zarr image, or a folder of masks."""
    return path.is_file() or (is_zarr(path) and path.is_dir()) or (is_masks(path) and bool(masks_in(path)))


def ending(path: Path) -> str:
    """The supported ending of a file's name, in lower case.

    Raises:
        UserError: If it has none.
    """
    for candidate in _FORMATS:
        if path.name.lower().endswith(candidate):
            return candidate
    raise UserError("not a supported file format", where=path, hint=f"convert it to one of {', '.join(ENDINGS)}")


def stem(path: Path) -> str:
    """A file's name without its supported ending; the same for either way to write its accents (NFC)."""
    return unicodedata.normalize("NFC", path.name[: -len(ending(path))])


def is_segmentation(path: Path) -> bool:
    """Whether the file is named as a 3D Slicer segmentation."""
    return path.name.lower().endswith(SEGMENTATION_ENDING)


def is_raster(path: Path) -> bool:
    """Whether the file is a 2D image without a pixel size in mm; of TIFF and OME-Zarr the header tells, if readable."""
    if ending(path) in _OF_ANY_UNIT:
        with suppress(UserError):
            grid = read_header(path).grid
            return grid.flat and grid.unit == "pixel"
    return ending(path) in RASTER_ENDINGS


def stored_unit(path: Path) -> Unit:
    """Unit of the file's spacing; of TIFF and OME-Zarr the header tells, if it can be read."""
    if ending(path) in _OF_ANY_UNIT:
        with suppress(UserError):
            return read_header(path).grid.unit
    return "pixel" if ending(path) in RASTER_ENDINGS else "mm"


def check_packages(paths: Iterable[Path]) -> None:
    """Check that the package is there that files of their endings need, before any of them is read or written.

    Raises:
        MissingPackage: For the first file that needs SimpleITK or zarr, if it is not installed.
    """
    needed: dict[Extra, Path] = {}
    for path in paths:
        name = path.name.lower()
        if name.endswith((*_OF_ITK, *ZARR_ENDINGS)):
            needed.setdefault("zarr" if name.endswith(ZARR_ENDINGS) else "itk", path)
    for extra, path in needed.items():
        check_extra(extra, f"reading and writing {path.suffix.lower()}", where=path)


def stored_in(path: Path) -> tuple[Path, ...]:
    """The files that hold an image: the file itself, which may be missing, and that with the voxels of an ``.mhd``.

    Of a folder of masks these are the masks.
    """
    if is_masks(path):
        return tuple(masks_in(path)) or (path,)
    with suppress(UserError, *_BROKEN):
        if path.name.lower().endswith(".mhd"):
            fetched(path)
            if beside := data_file(path):
                return path, beside
    return (path,)


def read_header(path: Path) -> Header:
    """Read shape, affine, number of channels and dtype without the voxels.

    Raises:
        UserError: If the file is missing or damaged, its affine is singular or its spacing absurd, or a package for
            its format is not installed.
    """
    check_packages([path])
    with readable(path):
        header = masks.header(path, read_header) if is_masks(path) else _FORMATS[ending(path)].header(path)
    check_affine(header, path)
    return header


def read_array(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read a file as ``(channel, i, j, k)`` in its own order, with the type of :func:`working_dtype`.

    This is the only way by which voxels are read. A file whose header claims more or less than it holds is refused, and
    one whose checksum differs, if its format has one.

    Raises as :func:`read_header` does.
    """
    if label and ending(path) in LOSSY_ENDINGS:
        hint = "export the label as .png from its source; one in black and white may be cut at half and stored as .png"
        raise UserError("JPEG compression changes label values", where=path, hint=hint)
    check_packages([path])
    if is_masks(path):
        with readable(path):
            return masks.read(path, read_header, partial(read_array, label=True))
    with readable(path):
        array, header = _FORMATS[ending(path)].read(path, label=label)
        array = converted(array, working_dtype(array.dtype, label=label))
    check_affine(header, path)
    return array, header


def write_volume(path: Path, array: np.ndarray, native: Grid, names: Mapping[str, int] | None = None) -> None:
    """Write an array in native order and geometry, atomically.

    Args:
        path: The file; its ending chooses the format.
        array: ``(i, j, k)`` or ``(channel, i, j, k)`` in native order; its dtype is kept.
        native: The grid of the file.
        names: Of a label map: label -> its value, without background; NIfTI and ``.seg.nrrd`` keep them.

    Raises:
        UserError: If the ending is not supported, or is one that is only read, such as JPEG, which changes values, or
            a package for it is not installed.
    """
    assert array.shape[-3:] == tuple(native.shape), (array.shape, native.shape)
    format_ = _FORMATS[ending(path)]
    if ending(path) in READ_ONLY_ENDINGS:
        what = "JPEG would change the values" if ending(path) in LOSSY_ENDINGS else f"{ending(path)} is only read"
        raise UserError(what, where=path, hint="write .png instead")
    check_packages([path])
    whole = whole_folder(path, replace=True) if is_zarr(path) else whole_file(path, needed=array.nbytes)
    with whole as temporary:
        format_.write(temporary, array, native, names or {})


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what the libraries raise for a missing or damaged file into a :class:`UserError`."""
    try:
        for part in stored_in(path):
            fetched(part)
        if not is_there(path):
            raise UserError("there is no such file", where=path)
        yield
    except UserError:
        raise
    except _BROKEN as error:
        cause = cause_of(error)
        raise UserError(f"cannot be read: {cause}", where=path, hint="copy or export the file again") from error
    except MemoryError as error:
        hint = "use a machine with more memory"
        raise UserError("its values do not fit into memory", where=path, hint=hint) from error


def check_affine(header: Header, path: Path | str) -> None:
    """Refuse a grid that cannot be in the world.

    Raises:
        UserError: If the affine is singular or the spacing absurd.
    """
    matrix = header.affine[:3, :3]
    if not np.isfinite(header.affine).all() or np.linalg.matrix_rank(matrix) < 3:
        hint = "export it again with a valid orientation"
        raise UserError(f"its affine is singular: {matrix.tolist()}", where=path, hint=hint)
    if header.grid.unit == "mm" and not all(SPACINGS[0] <= size <= SPACINGS[1] for size in header.grid.spacing):
        sizes = " x ".join(f"{size:.6g}" for size in header.grid.spacing)
        what = f"its spacing is {sizes} mm, outside of {SPACINGS[0]:g} to {SPACINGS[1]:g} mm"
        raise UserError(what, where=path, hint="correct the spacing and its unit, or export the file again")
