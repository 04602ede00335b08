"""A file is read whole or refused: cut off, changed, or with a header that claims more or less than it holds."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image as Pillow

from seg_transfer.data.dataset import find_images
from seg_transfer.data.formats import read_array, read_header, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError
from seg_transfer.evaluation.score_files import evaluate_folders

SHAPE = (12, 10, 8)
HEADER = nib.Nifti1Header.template_dtype
VOLUMES = [".nii", ".nii.gz", ".mha", "-raw.mha", ".nrrd", "-raw.nrrd"]


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, SHAPE).astype(np.int16)


def written(folder: Path, kind: str, volume: np.ndarray) -> Path:
    """``volume`` in a file; ``-raw`` stands for a MetaImage or NRRD file without compression."""
    path = folder / f"whole{kind}"
    write_volume(path, volume, Grid(volume.shape, np.diag([1.0, 2.0, 3.0, 1.0])))
    if "raw" in kind:
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path))
    return path


def changed(path: Path, **fields: object) -> Path:
    """A copy of a NIfTI file with other values in its header; ``dim_1=3`` is one of several values."""
    content = path.read_bytes()
    packed = path.name.endswith(".gz")
    content = bytearray(gzip.decompress(content) if packed else content)
    header = np.ndarray((), HEADER, buffer=content)
    for name, value in fields.items():
        field, _, index = name.partition("__")
        if index:
            header[field][int(index)] = value
        else:
            header[field] = value
    copy = path.with_name(f"changed{''.join(path.suffixes)}")
    copy.write_bytes(gzip.compress(content) if packed else content)
    return copy


def edited(path: Path, before: bytes, after: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(before) == 1
    copy = path.with_name(f"edited{path.suffix}")
    copy.write_bytes(content.replace(before, after))
    return copy


@pytest.mark.parametrize("kind", [".nii.gz", ".mha", ".nrrd", ".png"])
def test_no_changed_bit_of_a_compressed_body_goes_unnoticed(tmp_path: Path, volume: np.ndarray, kind: str) -> None:
    if kind == ".png":
        path = tmp_path / "whole.png"
        Pillow.fromarray(volume[..., 0].astype(np.uint8)).save(path)
    else:
        path = written(tmp_path, kind, volume)
    content, before = path.read_bytes(), read_array(path, label=False)[0]
    damaged = tmp_path / f"damaged{kind}"
    refused = 0
    start = max(content.find(b"LOCAL"), content.find(b"\n\n"), 0) if kind in (".mha", ".nrrd") else 0
    bits = np.random.default_rng(1).choice(np.arange(8 * start, 8 * len(content)), 150, replace=False)
    for bit in [*bits, 8 * len(content) - 1, 8 * (len(content) - 5)]:
        copy = bytearray(content)
        copy[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(copy)
        try:
            np.testing.assert_array_equal(read_array(damaged, label=False)[0], before)
        except UserError as error:
            assert "damaged" in str(error)
            refused += 1
    assert refused > 130  # the others changed no pixel, such as the date in the header of gzip


@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.parametrize("read", [lambda path: read_image([path]), read_label])
def test_a_file_that_is_cut_off_or_goes_on_is_refused(tmp_path: Path, volume, kind: str, read: Callable) -> None:
    path = written(tmp_path, kind, volume)
    content = path.read_bytes()
    read(path)
    for other in (content[:-1], content[:-9], content[: len(content) // 2], content + b"more", content + content):
        path.write_bytes(other)
        with pytest.raises(UserError, match="cannot be read"):
            read(path)


@pytest.mark.parametrize("kind", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"dim__3": 7}, "claims 2032 bytes, but the file holds (2272|more)"),
        ({"dim__3": 9}, "claims 2512 bytes, but the file holds 2272|it is cut off: 240 bytes are missing"),
        ({"datatype": 2, "bitpix": 8}, "claims 1312 bytes, but the file holds (2272|more)"),
        ({"dim__2": 0}, r"it has no voxels: its shape is \(12, 0, 8\)"),
        ({"dim__1": -5}, "it has no voxels"),
        ({"dim__0": 7}, "5D|its shape is"),
        ({"datatype": 128, "bitpix": 24}, "RGB voxels are not supported in NIfTI"),
        ({"datatype": 2304, "bitpix": 32}, "RGBA voxels are not supported"),
        ({"datatype": 32, "bitpix": 64}, "voxels of type complex64"),
        ({"datatype": 77}, "cannot be read"),
        ({"srow_x": 0}, "affine is singular"),
        ({"srow_x__0": 1e-30, "srow_y__1": 1e-30, "srow_z__2": 1e-30}, "spacing is 1e-30 x 1e-30 x 1e-30 mm"),
        ({"srow_x__0": 1e30, "srow_y__1": 1e30, "srow_z__2": 1e30}, "spacing is 1e.30 x 1e.30 x 1e.30 mm"),
        ({"srow_x__1": np.nan}, "sform is not finite"),
        ({"vox_offset": 0}, "voxels start at byte 0"),
        ({"vox_offset": 353}, "claims 2273 bytes|1 bytes are missing"),
        ({"vox_offset": 1e30}, "voxels start at byte 1e.30"),
        ({"vox_offset": np.inf}, "voxels start at byte inf"),
        ({"magic": b"ni1"}, "header of a pair of files"),
        ({"magic": b"xyz"}, "no NIfTI file"),
    ],
)
def test_a_nifti_header_that_is_wrong_is_refused(tmp_path: Path, volume, kind: str, fields: dict, what: str) -> None:
    path = changed(written(tmp_path, kind, volume), **fields)
    with pytest.raises(UserError, match=what) as error:
        read_array(path, label=False)
    assert error.value.hint
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (".mha", b"DimSize = 12 10 8", b"DimSize = 12 10 7"),
        (".mha", b"DimSize = 12 10 8", b"DimSize = 12 10 9"),
        (".mha", b"DimSize = 12 10 8", b"DimSize = 12 0 8"),
        (".mha", b"MET_SHORT", b"MET_UCHAR"),
        (".mha", b"ElementSpacing = 1 2 3", b"ElementSpacing = 1e-30 1e-30 1e-30"),
        (".mha", b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd"),
        ("-raw.mha", b"DimSize = 12 10 8", b"DimSize = 12 10 7"),
        ("-raw.mha", b"DimSize = 12 10 8", b"DimSize = 12 10 9"),
        (".nrrd", b"sizes: 12 10 8", b"sizes: 12 10 7"),
        (".nrrd", b"sizes: 12 10 8", b"sizes: 12 10 9"),
        (".nrrd", b"type: short", b"type: uint8"),
        (".nrrd", b"encoding: gzip", b"data file: /etc/passwd\nencoding: gzip"),
        ("-raw.nrrd", b"sizes: 12 10 8", b"sizes: 12 10 7"),
        (".nrrd", b"encoding: gzip", b'space units: "um" "um" "um"\nencoding: gzip'),
        (".mha", b"ElementSpacing = 1 2 3", b"ElementSpacing = 1 2 3\nDistanceUnits = cm"),
    ],
)
def test_other_headers_that_are_wrong_are_refused(tmp_path: Path, volume, kind: str, before: bytes, after) -> None:
    with pytest.raises(UserError):
        read_array(edited(written(tmp_path, kind, volume), before, after), label=False)


def test_an_nrrd_file_in_mm_may_say_so(tmp_path: Path, volume: np.ndarray) -> None:
    path = edited(written(tmp_path, ".nrrd", volume), b"encoding", b'space units: "mm" "mm" "mm"\nencoding')
    np.testing.assert_array_equal(read_image([path]).array[0], volume)


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_header_is_not_believed_before_memory_is_taken(tmp_path: Path, kind: str) -> None:
    """A small file that claims 1300 x 1300 x 1300 voxels of two bytes."""
    path = written(tmp_path, kind, np.zeros(SHAPE, np.int16))
    if "nii" in kind:
        path = changed(path, dim__1=1300, dim__2=1300, dim__3=1300)
    else:
        name = b"DimSize = " if "mha" in kind else b"sizes: "
        path = edited(path, name + b"12 10 8", name + b"1300 1300 1300")
    read_image([written(tmp_path, ".nii", np.zeros(SHAPE, np.int16))])  # loads what reading needs
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"claims \d+ bytes|values need 4\.4 GB"):
            read_image([path])
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_what_follows_the_body_is_not_decompressed(tmp_path: Path, volume: np.ndarray) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    path = written(tmp_path, ".nii", volume)
    content = bomb.compress(path.read_bytes()) + bomb.flush(zlib.Z_FULL_FLUSH)
    zeros = bomb.compress(bytes(2**24)) + bomb.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "bomb.nii.gz").write_bytes(content + 500 * zeros)  # 8 GB
    start = time.perf_counter()
    with pytest.raises(UserError, match="but the file holds more"):
        read_image([tmp_path / "bomb.nii.gz"])
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f8", "<u4"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("slope", [1.0, 0.25])
def test_values_are_those_that_nibabel_reads(tmp_path: Path, volume, dtype: str, version: type, slope: float) -> None:
    array = np.stack([volume, volume[::-1]], axis=-1).astype(dtype)
    image = version(array, np.eye(4), version.header_class(endianness=dtype[0]))
    image.header.set_data_dtype(dtype)
    image.header.set_slope_inter(slope, 0 if slope == 1 else -3)
    for name in ("a.nii", "a.nii.gz"):
        nib.save(image, tmp_path / name)
        expected = nib.load(tmp_path / name)
        assert expected.header.endianness == dtype[0]
        found, header = read_array(tmp_path / name, label=False)
        np.testing.assert_array_equal(found, np.moveaxis(np.asanyarray(expected.dataobj), -1, 0).astype(found.dtype))
        assert found.dtype.isnative
        assert header.channels == 2


def test_whether_a_file_is_compressed_is_told_by_its_content(tmp_path: Path, volume: np.ndarray) -> None:
    plain, packed = written(tmp_path, ".nii", volume), written(tmp_path, ".nii.gz", volume)
    for source, name in ((plain, "plain.nii.gz"), (packed, "packed.nii"), (packed, "packed.NII.GZ")):
        (tmp_path / name).write_bytes(source.read_bytes())
        np.testing.assert_array_equal(read_image([tmp_path / name]).array[0], volume)
        assert read_header(tmp_path / name).shape == SHAPE
    members = [plain.read_bytes()[:1000], plain.read_bytes()[1000:], b""]
    (tmp_path / "members.nii.gz").write_bytes(b"".join(map(gzip.compress, members)) + bytes(7))
    np.testing.assert_array_equal(read_image([tmp_path / "members.nii.gz"]).array[0], volume)


@pytest.mark.parametrize("ending", [".NII.GZ", ".Nii", ".MHA", ".MHD", ".NRRD", ".PNG", ".TIF"])
def test_endings_in_capitals(tmp_path: Path, volume: np.ndarray, ending: str) -> None:
    path = tmp_path / f"a_0000{ending}"
    if ending in (".PNG", ".TIF"):
        Pillow.fromarray(volume[..., 0].astype(np.uint8)).save(path)
    else:
        lower = written(tmp_path, ending.lower(), volume)
        path.write_bytes(lower.read_bytes())
        lower.unlink()
        again = tmp_path / f"b_0000{ending}"
        write_volume(again, volume, read_header(path).grid)
        np.testing.assert_array_equal(read_image([again]).array[0], volume)
        again.unlink()
    (case,) = find_images(tmp_path, 1)
    assert (case.id, case.images) == ("a", (path,))
    assert read_image(case.images).array.shape[1:] == read_header(path).grid.canonical().shape


def test_a_tiff_whose_strips_are_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Pillow.fromarray(np.full((20, 30), 7, np.uint8)).save(path)
    read_image([path])
    content = bytearray(path.read_bytes())
    entry = content.index(b"\x01\x01")  # tag 257, ImageLength
    content[entry + 8 : entry + 12] = (2000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="claims 30 x 2000 pixels, but it holds 1 of their 100 parts"):
        read_image([path])


def test_evaluation_reads_to_the_checksum(tmp_path: Path, volume: np.ndarray) -> None:
    for folder in ("predictions", "references"):
        for case in ("a", "b"):
            write_volume(tmp_path / folder / f"{case}.nii.gz", volume % 3, Grid(SHAPE, np.eye(4)))
    path = tmp_path / "predictions/b.nii.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    assert sorted(scores.cases) == ["a"]
    assert "CRC" in scores.failures["b"]
