"""TIFF of several pages, OME-TIFF and ImageJ's stacks; the files are written by tifffile."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.formats import is_raster, read_array, read_header, stem, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError

SIZES = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2.0}


@pytest.fixture
def stack() -> np.ndarray:
    """``(slice, row, column)``."""
    return np.random.default_rng(0).integers(0, 60_000, (4, 5, 6)).astype(np.uint16)


def ome(path: Path, array: np.ndarray, axes: str, **fields: object) -> Path:
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata={"axes": axes, **fields})
    return path


def edited(path: Path, before: str, after: str) -> Path:
    """Another OME-XML in the same file."""
    text = tifffile.tiffcomment(path)
    changed, count = re.subn(before, after, text)
    assert count, text
    tifffile.tiffcomment(path, changed.encode())
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_pages_are_slices(tmp_path: Path, stack: np.ndarray, dtype: type, compression, tile) -> None:
    stack = stack.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", compression=compression, tile=tile)
    array, header = read_array(tmp_path / "a.tif", label=True)
    np.testing.assert_array_equal(array[0].transpose(2, 1, 0), stack)
    assert header.shape == (6, 5, 4) == read_header(tmp_path / "a.tif").shape
    assert header.dtype == dtype == read_header(tmp_path / "a.tif").dtype
    assert (header.grid.unit, header.grid.spacing, header.grid.flat) == ("pixel", (1, 1, 1), False)
    assert not is_raster(tmp_path / "a.tif")

    write_volume(tmp_path / "b.TIF", array[0], header.grid)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.TIF"), stack)
    np.testing.assert_array_equal(read_label(tmp_path / "b.TIF").array, read_label(tmp_path / "a.tif").array)


def test_pages_in_lzw_and_in_colours(tmp_path: Path, stack: np.ndarray) -> None:
    pages = [Pillow.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "lzw.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    np.testing.assert_array_equal(read_array(tmp_path / "lzw.tif", label=False)[0][0].transpose(2, 1, 0), stack)
    colours = np.random.default_rng(1).integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colours, photometric="rgb")
    found = read_image([tmp_path / "rgb.tif"]).array
    np.testing.assert_array_equal(found.transpose(3, 2, 1, 0), colours)
    with pytest.raises(UserError, match="a colour image cannot be a label"):
        read_label(tmp_path / "rgb.tif")


def test_one_page_is_read_as_before(tmp_path: Path, stack: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack[0], resolution=(300, 300), resolutionunit="INCH")
    header = read_header(tmp_path / "a.tif")
    assert (header.grid.unit, header.grid.flat, header.shape) == ("pixel", True, (6, 5, 1))
    assert is_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image([tmp_path / "a.tif"]).array[0, ..., 0].T, stack[0])


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([(5, 6), (5, 7)], "page 2 has another size or type"),
        ([(5, 6), (6, 5)], "page 2 has another size or type"),
        ([(5, 6), (5, 6, 3)], "page 2 has another size or type"),
    ],
)
def test_pages_that_differ_are_refused(tmp_path: Path, pages: list[tuple[int, ...]], message: str) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for shape in pages:
            photometric = "rgb" if len(shape) == 3 else "minisblack"
            file.write(np.zeros(shape, np.uint8), photometric=photometric, metadata=None)
    with pytest.raises(UserError, match=message):
        read_array(tmp_path / "a.tif", label=False)
    with tifffile.TiffWriter(tmp_path / "types.tif") as file:
        for dtype in (np.uint8, np.uint16):
            file.write(np.zeros((5, 6), dtype), metadata=None)
    with pytest.raises(UserError, match="page 2 has another size or type"):
        read_array(tmp_path / "types.tif", label=False)


@pytest.mark.parametrize("name", ["a.ome.tif", "a.ome.tiff", "a.tif", "A.OME.TIF"])
@pytest.mark.parametrize("axes", ["ZYX", "CZYX", "ZCYX"])
def test_ome_has_channels_and_sizes(tmp_path: Path, stack: np.ndarray, name: str, axes: str) -> None:
    both = np.stack([stack, stack + 1])
    array = {"ZYX": stack, "CZYX": both, "ZCYX": both.transpose(1, 0, 2, 3)}[axes]
    path = ome(tmp_path / name, array, axes, **SIZES)
    image = read_image([path])
    assert stem(path).lower() == "a"
    np.testing.assert_array_equal(image.array.transpose(0, 3, 2, 1), both[: len(image.array)])
    assert image.array.shape[0] == read_header(path).channels == (2 if "C" in axes else 1)
    assert image.unit == "mm"
    np.testing.assert_allclose(image.spacing, (0.0005, 0.00025, 0.002))


@pytest.mark.parametrize(
    ("unit", "mm"), [("nm", 1e-6), ("mm", 1.0), ("cm", 10.0), ("in", 25.4), ("pixel", None), ("µm", 1e-3)]
)
def test_units_of_ome(tmp_path: Path, stack: np.ndarray, unit: str, mm: float | None) -> None:
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XYZ"}
    grid = read_header(ome(tmp_path / "a.ome.tif", stack, "ZYX", **SIZES, **units)).grid
    assert grid.unit == ("pixel" if mm is None else "mm")
    np.testing.assert_allclose(grid.spacing, (1, 1, 1) if mm is None else np.array([0.5, 0.25, 2]) * mm)
    edited(tmp_path / "a.ome.tif", "SizeZUnit=.[^'\"]+", 'SizeZUnit="furlong')
    with pytest.raises(UserError, match="has the unit 'furlong'"):
        read_header(tmp_path / "a.ome.tif")


def test_a_2d_ome_image_keeps_its_size(tmp_path: Path, stack: np.ndarray) -> None:
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    header = read_header(ome(tmp_path / "a.ome.tif", stack[0], "YX", **sizes))
    assert (header.grid.unit, header.grid.flat, header.shape) == ("mm", True, (6, 5, 1))
    np.testing.assert_allclose(header.grid.spacing, (0.0005, 0.00025, 1))
    header = read_header(ome(tmp_path / "b.ome.tif", stack, "CYX"))
    assert (header.grid.unit, header.grid.flat, header.channels) == ("pixel", True, 4)
    assert is_raster(tmp_path / "b.ome.tif") and not is_raster(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("SizeT=.1.", 'SizeT="2"', "it has 2 time points"),
        ("SizeZ=.4.", 'SizeZ="5"', "claims 5 slices of 1 channels; it has 4 pages"),
        ("SizeZ=.4.", 'SizeZ="999999999"', "claims 999999999 slices"),
        ("SizeZ=.4.", 'SizeZ="-4"', "has the number '-4'"),
        ("SizeX=.6.", 'SizeX="60000"', r"claims \(60000, 5\) pixels"),
        ("<TiffData[^>]*>", '<TiffData IFD="9"/>', "lists pages that it does not have"),
        ("<TiffData[^>]*>", '<TiffData IFD="0"/>', "lists pages that it does not have"),
        ("<TiffData.*</Pixels>", '<TiffData><UUID FileName="b.tif">urn:b</UUID></TiffData></Pixels>', "several files"),
        ("DimensionOrder=.XY", 'DimensionOrder="QQ', "claims 4 slices"),
        ("<Pixels.*</Pixels>", "", "has no Pixels"),
        ("</Image>", "</Image><Image/>", "it holds 2 images"),
        ("</OME>", "", "cannot be read"),
        (r"(<\?xml[^>]*\?>)", r'\1<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>', "document type"),
    ],
)
def test_ome_that_is_not_one_stack_is_refused(tmp_path: Path, stack, before: str, after: str, message: str) -> None:
    path = edited(ome(tmp_path / "a.ome.tif", stack, "ZYX", UUID="urn:a"), f"(?s){before}", after)
    with pytest.raises(UserError, match=message):
        read_image([path])


def test_an_xml_bomb_takes_neither_time_nor_memory(tmp_path: Path, stack: np.ndarray) -> None:
    path = ome(tmp_path / "a.ome.tif", stack, "ZYX")
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 30))
    edited(path, r"(<\?xml[^>]*\?>)", rf'\1<!DOCTYPE b [<!ENTITY e0 "x">{entities}]>')
    with pytest.raises(UserError, match="document type"):
        read_header(path)


def test_pages_in_another_order(tmp_path: Path, stack: np.ndarray) -> None:
    path = ome(tmp_path / "a.ome.tif", stack, "ZYX")
    blocks = "".join(f'<TiffData IFD="{3 - z}" FirstZ="{z}" PlaneCount="1"/>' for z in range(4))
    edited(path, "<TiffData[^>]*>(</TiffData>)?", blocks)
    np.testing.assert_array_equal(read_array(path, label=False)[0][0].transpose(2, 1, 0), stack[::-1])


def test_imagej_stacks(tmp_path: Path, stack: np.ndarray) -> None:
    both = np.stack([stack, stack + 1], 1)
    described = {"spacing": 2.0, "unit": "micron"}
    tifffile.imwrite(tmp_path / "a.tif", both, imagej=True, resolution=(2, 4), metadata={"axes": "ZCYX", **described})
    image = read_image([tmp_path / "a.tif"])
    np.testing.assert_array_equal(image.array.transpose(3, 0, 2, 1), both)
    np.testing.assert_allclose(image.spacing, (0.0005, 0.00025, 0.002))
    tifffile.imwrite(tmp_path / "t.tif", stack, imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(UserError, match=r"4 time points(.|\n)*say so in Image > Properties"):
        read_image([tmp_path / "t.tif"])
    tifffile.imwrite(tmp_path / "z.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    assert read_header(tmp_path / "z.tif").grid.unit == "pixel"


@pytest.mark.parametrize("kind", ["a.tif", "a.ome.tif"])
def test_a_file_that_is_cut_off_or_claims_too_much_is_refused(tmp_path: Path, stack: np.ndarray, kind: str) -> None:
    stack = np.repeat(np.repeat(stack, 20, 1), 20, 2)
    path = ome(tmp_path / kind, stack, "ZYX")
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) * 9 // 10, 100):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            read_image([path])


@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read_by_others(tmp_path: Path, stack: np.ndarray, channels: int) -> None:
    array = np.stack([stack.transpose(2, 1, 0)] * channels)
    array[-1] += 1
    grid = Grid((6, 5, 4), np.diag([0.0005, 0.00025, 0.002, 1]))
    write_volume(tmp_path / "a.ome.tif", array, grid)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        assert file.is_ome and len(file.series) == 1
        assert file.series[0].axes == ("CZYX" if channels == 2 else "ZYX")
        np.testing.assert_array_equal(file.asarray().reshape(channels, 4, 5, 6), array.transpose(0, 3, 2, 1))
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert [pixels[f"PhysicalSize{axis}"] for axis in "XYZ"] == [0.0005, 0.00025, 0.002]
    found, header = read_array(tmp_path / "a.ome.tif", label=False)
    np.testing.assert_array_equal(found, array)
    np.testing.assert_allclose(header.affine, grid.affine)


@pytest.mark.parametrize("sized", [True, False])
def test_a_data_set_of_stacks(tmp_path: Path, stack: np.ndarray, sized: bool, caplog) -> None:
    """Labels are plain stacks: they lie on the pixels of their images."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with caplog.at_level(logging.WARNING):
        for name in "ab":
            ome(tmp_path / f"images/{name}.ome.tif", stack, "ZYX", **(SIZES if sized else {}))
            tifffile.imwrite(
                tmp_path / f"labels/{name}.tif", (stack > 30_000).astype(np.uint8), photometric="minisblack"
            )
        data = find_dataset(tmp_path)
    assert (data.unit, data.dimension, len(data.cases)) == ("mm" if sized else "pixel", 3, 2)
    assert ("have no pixel size" in caplog.text) != sized
    for case in data.cases:
        image = read_image(case.images)
        label = read_label(case.label, grid=image.native)
        np.testing.assert_array_equal(label.array[0], image.array[0] > 30_000)
        np.testing.assert_array_equal(label.affine, image.affine)
    if sized:
        ome(tmp_path / "images/b.ome.tif", stack, "ZYX")
        with pytest.raises(UserError, match=r"b\.ome\.tif: it has no pixel size, but other images have"):
            find_dataset(tmp_path)
