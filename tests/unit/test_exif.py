"""The orientation in EXIF: images are read as a viewer shows them, from every format that can hold it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags
from PIL import Image as Pillow

from seg_transfer.data.formats import read_header
from seg_transfer.data.image import read_image, read_label

SHAPE = (24, 40)
"""Rows and columns as shown."""
STORED = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.T,
    6: lambda shown: shown.T[::-1],
    7: lambda shown: shown.T[::-1, ::-1],
    8: lambda shown: shown.T[:, ::-1],
}
"""Orientation -> what a camera stores of an image that is to be shown, by the standard's first row and column."""

OPTIONS = {".jpg": {"quality": 100}, "-compressed.tif": {"compression": "tiff_lzw"}}


def shown_image() -> np.ndarray:
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (5 * rows + 2 * columns).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", "-compressed.tif"])
def test_an_image_is_read_as_it_is_shown(tmp_path: Path, suffix: str, orientation: int) -> None:
    shown = shown_image()
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a{suffix}"
    stored = np.ascontiguousarray(STORED[orientation](shown))
    Pillow.fromarray(stored).save(path, exif=exif, **OPTIONS.get(suffix, {}))
    assert read_header(path).grid.shape == (SHAPE[1], SHAPE[0], 1)
    image = read_image([path])
    assert image.array.shape == (1, SHAPE[1], SHAPE[0], 1)
    np.testing.assert_allclose(image.array[0, :, :, 0].T, shown, atol=2 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_label_with_an_orientation_lies_on_its_image(tmp_path: Path, orientation: int) -> None:
    shown = (shown_image() > 90).astype(np.uint8)
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Pillow.fromarray(np.ascontiguousarray(STORED[orientation](shown))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png").array[0, :, :, 0].T, shown)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_unknown_orientation_changes_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Pillow.fromarray(shown_image()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[0, :, :, 0].T, shown_image())
