"""2D images with pillow: ``i`` is the column, ``j`` the row, ``k`` has size 1; the spacing is 1 pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from seg_transfer.data.formats.header import Header
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError

_GREY = ("L", "I;16", "I", "F")  # modes whose values are kept
_AS_GREY = {"1": "L", "LA": "L", "I;16B": "I;16", "I;16L": "I;16"}


def header(path: Path) -> Header:
    """Read size and mode only."""
    with Pillow.open(path) as image:
        mode = _mode(image, path)
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
        return _header(image.size, 3 if mode == "RGB" else 1, np.dtype(dtype))


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, 1)``: 1 channel, or red, green and blue; transparency is dropped.

    Of labels with a palette the indices are read; label images in RGB must have equal channels.
    """
    with Pillow.open(path) as image:
        indices = label and image.mode in ("P", "1")
        array = np.asarray(image if indices else image.convert(_mode(image, path)))
    if indices:
        array = array.astype(np.uint8)
    array = array.reshape((*array.shape[:2], -1)).transpose(2, 1, 0)[..., np.newaxis]
    if label and len(array) == 3:
        if not (array == array[:1]).all():
            hint = "store one grey value per label (mode L or P)"
            raise UserError("a colour image cannot be a label", where=path, hint=hint)
        array = array[:1]
    return array, _header((array.shape[1], array.shape[2]), len(array), array.dtype)


def write(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write grey (8 or 16 bit) or, with 3 channels, 8-bit RGB."""
    pixels = array[..., 0]
    pixels = pixels.T if pixels.ndim == 2 else pixels.transpose(2, 1, 0)
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(path)


def _mode(image: Pillow.Image, path: Path) -> str:
    """The pillow mode that the image is read in."""
    if getattr(image, "n_frames", 1) > 1:
        raise UserError("images of several pages are not supported", where=path, hint="store the stack as .nii.gz")
    mode = _AS_GREY.get(image.mode, image.mode)
    return mode if mode in _GREY else "RGB"


def _header(size: tuple[int, int], channels: int, dtype: np.dtype) -> Header:
    return Header(Grid((*size, 1), np.eye(4), unit="pixel", flat=True), channels, dtype)
