"""TIFF: one page is a 2D image, several are the slices of a volume along ``k``; OME-TIFF and ImageJ also name channels.

Pages are decoded by pillow, as 2D images are. Only OME-XML and ImageJ's description have a pixel size that is used; the
resolution of other files is that of a printer. Without a size the spacing is 1 pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import ExifTags, TiffImagePlugin
from PIL import Image as Pillow

from seg_transfer.data.formats import raster
from seg_transfer.data.formats.header import Header, check_free_memory, working_dtype
from seg_transfer.data.formats.ome import Stack, imagej_stack, ome_stack, ome_xml, plain_stack
from seg_transfer.data.formats.stream import GZIP_RATIO
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError

OME_ENDINGS = (".ome.tif", ".ome.tiff")
_ALIKE = "export the stack again, with slices of one size and type"


def header(path: Path) -> Header:
    """Read the description and the header of the first page."""
    with Pillow.open(path) as image:
        stack = _stack(image, path)
        return raster.header(path) if stack is None else _header(image, stack, path)


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, k)``: ``i`` is the column, ``j`` the row, ``k`` the slice."""
    with Pillow.open(path) as image:
        stack = _stack(image, path)
        if stack is None:
            return raster.read(path, label=label)
        described = _header(image, stack, path)
        count = math.prod(described.shape) * described.channels
        if count > raster.HARMLESS and count > path.stat().st_size * GZIP_RATIO:
            raise ValueError(f"its header claims {count} values, more than its file can hold")
        check_free_memory(described, working_dtype(described.dtype, label=label), path)
        slices: list[np.ndarray] = []
        mode = image.mode
        for group in zip(*stack.pages, strict=True):
            parts = []
            for page in group:
                image.seek(page)
                parts.append(raster.pixels(image, path, label=label))
                if image.mode != mode or parts[-1].shape[1:3] != described.shape[:2]:
                    what = f"page {page + 1} has another size or type than the first page"
                    raise UserError(what, where=path, hint=_ALIKE)
            slices.append(np.concatenate(parts))
        array = np.concatenate(slices, axis=-1)
    if len(array) != described.channels and not (label and len(array) == 1):
        raise ValueError(f"its pages hold {len(array)} channels, not {described.channels}")
    return array, Header(described.grid, len(array), array.dtype)


def write(path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
    """Write the slices as pages; as OME-TIFF also channels and the pixel size, but neither origin nor axes."""
    is_ome = path.name.lower().endswith(OME_ENDINGS)
    channels = array if array.ndim == 4 else array[np.newaxis]
    if not is_ome and array.shape[-1] == 1:
        raster.write(path, array, grid, names)
        return
    if channels.dtype not in (np.uint8, np.uint16, np.int32, np.float32):
        channels = channels.astype(np.float32 if channels.dtype.kind == "f" else np.int32)
    planes = [channel[..., k].T for channel in channels for k in range(array.shape[-1])]
    pages = [Pillow.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if is_ome:
        spacing = grid.spacing if grid.unit == "mm" else None
        kind = {"f": "float"}.get(channels.dtype.kind, str(channels.dtype))
        i, j, k = grid.shape
        tags[ExifTags.Base.ImageDescription] = ome_xml((i, j, k), len(channels), kind, spacing)
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tags, compression="tiff_adobe_deflate")


def _stack(image: Pillow.Image, path: Path) -> Stack | None:
    """How the pages make up an image; None for a plain 2D image."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    pages = image.n_frames
    is_ome = path.name.lower().endswith(OME_ENDINGS)
    text = _description(image)
    if "<OME" in text[:10_000] and (is_ome or pages > 1):
        return ome_stack(text, pages, path)
    if text.startswith("ImageJ=") and "images=" in text:
        resolution = [_ratio(image, tag) for tag in (ExifTags.Base.XResolution, ExifTags.Base.YResolution)]
        return imagej_stack(text, pages, (resolution[0], resolution[1]), path)
    return plain_stack(pages) if pages > 1 or is_ome else None


def _description(image: TiffImagePlugin.TiffImageFile) -> str:
    """The first page's description; pillow decodes it as Latin-1, but most writers have UTF-8."""
    text = image.tag_v2.get(ExifTags.Base.ImageDescription, "")
    if not isinstance(text, str):
        return ""
    with suppress(UnicodeError):
        return text.encode("latin-1").decode("utf-8")
    return text


def _ratio(image: TiffImagePlugin.TiffImageFile, tag: int) -> float:
    value = float(image.tag_v2.get(tag, 0))
    return value if math.isfinite(value) else 0.0


def _header(image: Pillow.Image, stack: Stack, path: Path) -> Header:
    image.seek(next(chain.from_iterable(stack.pages)))
    page = raster.page_header(image)
    if stack.size not in (None, page.shape[:2]):
        raise ValueError(f"its OME-XML claims {stack.size} pixels, but its pages have {page.shape[:2]}")
    channels = page.channels * len(stack.pages)
    if stack.channels not in (None, channels):
        raise ValueError(f"its OME-XML claims {stack.channels} channels, but its pages hold {channels}")
    slices = len(stack.pages[0])
    affine = np.eye(4) if stack.spacing is None else np.diag([*stack.spacing, 1.0])
    columns, rows, _ = page.shape
    unit = raster.UNIT if stack.spacing is None else "mm"
    return Header(Grid((columns, rows, slices), affine, unit=unit, flat=slices == 1), channels, page.dtype)
