"""2D images with pillow: ``i`` is the column, ``j`` the row, ``k`` has size 1; the spacing is 1 pixel.

Pages of TIFF are decoded here too. Images are read as a viewer shows them: an orientation in EXIF is applied. Written
images have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ExifTags, TiffImagePlugin
from PIL import Image as Pillow

from seg_transfer.data.formats.header import Header, check_free_memory
from seg_transfer.data.formats.stream import GZIP_RATIO
from seg_transfer.data.geometry import Grid, Unit
from seg_transfer.errors import UserError

UNIT: Unit = "pixel"
_GREY = ("L", "I;16", "I", "F")  # modes whose values are kept
HARMLESS = 2**26
"""Values that are allocated whatever the size of the file: blank pages compress to nearly nothing."""
_SHOWN = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""Orientation in EXIF -> what a viewer does before it shows the image; from 5 on columns and rows are swapped."""
_AS_GREY = {"1": "L", "LA": "L", "I;16B": "I;16", "I;16L": "I;16"}


def header(path: Path) -> Header:
    """Read size and mode only."""
    with Pillow.open(path) as image:
        _check_one_page(image, path)
        return page_header(image)


def page_header(image: Pillow.Image) -> Header:
    """Size and mode of an image, or of the page of it that is selected."""
    mode = _mode(image)
    dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
    return _header(_shown_size(image), 3 if mode == "RGB" else 1, np.dtype(dtype))


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, 1)``: 1 channel, or red, green and blue; transparency is dropped.

    Of labels with a palette the indices are read; label images in RGB must have equal channels.
    """
    with Pillow.open(path) as image:
        _check_one_page(image, path)
        array = pixels(image, path, label=label)
    return array, _header((array.shape[1], array.shape[2]), len(array), array.dtype)


def pixels(image: Pillow.Image, path: Path, *, label: bool) -> np.ndarray:
    """``(channel, i, j, 1)`` of an image, or of the page of it that is selected; as :func:`read`."""
    _check_size(image, path)
    _check_parts(image)
    indices = label and image.mode in ("P", "1")
    mode = image.mode if indices else _mode(image)
    shown = _as_shown(image)
    array = np.asarray(shown if indices else shown.convert(mode))
    if indices:
        array = array.astype(np.uint8)
    array = array.reshape((*array.shape[:2], -1)).transpose(2, 1, 0)[..., np.newaxis]
    if label and len(array) == 3:
        if not (array == array[:1]).all():
            hint = "store one grey value per label (mode L or P)"
            raise UserError("a colour image cannot be a label", where=path, hint=hint)
        array = array[:1]
    return array


def write(path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
    """Write grey (8 or 16 bit) or, with 3 channels, 8-bit RGB."""
    pixels = array[..., 0]
    pixels = pixels.T if pixels.ndim == 2 else pixels.transpose(2, 1, 0)
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(path)


def _check_one_page(image: Pillow.Image, path: Path) -> None:
    if getattr(image, "n_frames", 1) > 1:
        what = "images of several pages are read from TIFF only"
        raise UserError(what, where=path, hint="store the stack as .tif or .nii.gz")


def _mode(image: Pillow.Image) -> str:
    """The pillow mode that the image is read in."""
    mode = _AS_GREY.get(image.mode, image.mode)
    return mode if mode in _GREY else "RGB"


def _check_size(image: Pillow.Image, path: Path) -> None:
    """Compare the number of pixels with what the file can hold, before they are allocated."""
    columns, rows = _stored_size(image)
    needed = columns * rows * len(image.getbands())
    if needed > HARMLESS and needed > path.stat().st_size * GZIP_RATIO:
        raise ValueError(f"its header claims {columns} x {rows} pixels, more than its file can hold")
    check_free_memory(
        _header((columns, rows), 2 * len(image.getbands()), np.dtype(np.float32)), np.dtype(np.float32), path
    )


def _check_parts(image: Pillow.Image) -> None:
    """Check that a TIFF has as many strips or tiles as its size needs; pillow leaves pixels of missing ones black."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    columns, rows = _stored_size(image)
    tags = image.tag_v2
    if TiffImagePlugin.TILEOFFSETS in tags:
        held = len(tags[TiffImagePlugin.TILEOFFSETS])
        needed = math.ceil(columns / tags[TiffImagePlugin.TILEWIDTH]) * math.ceil(
            rows / tags[TiffImagePlugin.TILELENGTH]
        )
    else:
        held = len(tags[TiffImagePlugin.STRIPOFFSETS])
        needed = math.ceil(rows / min(rows, tags.get(TiffImagePlugin.ROWSPERSTRIP, rows)))
    if held < needed:
        raise ValueError(f"its header claims {columns} x {rows} pixels, but it holds {held} of their {needed} parts")


def _stored_size(image: Pillow.Image) -> tuple[int, int]:
    """Columns and rows in the file; pillow swaps those of a turned TIFF when it opens it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
    return image.size


def _shown_size(image: Pillow.Image) -> tuple[int, int]:
    columns, rows = _stored_size(image)
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (rows, columns) if turned else (columns, rows)


def _as_shown(image: Pillow.Image) -> Pillow.Image:
    """Load the pixels and apply the orientation in EXIF."""
    orientation = image.getexif().pop(ExifTags.Base.Orientation, 1)
    image._size = _stored_size(image)  # pillow 13 mixes up the rows of a turned TIFF if it turns it itself
    return image.transpose(_SHOWN[orientation]) if orientation in _SHOWN else image


def _header(size: tuple[int, int], channels: int, dtype: np.dtype) -> Header:
    return Header(Grid((*size, 1), np.eye(4), unit=UNIT, flat=True), channels, dtype)
