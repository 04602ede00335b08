"""MetaImage headers whose voxels are in a file beside them (``.mhd`` with ``.raw`` or ``.zraw``)."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from made_balls import make_dataset

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.fixes import write_fixed
from seg_transfer.data.formats import read_header, stored_in, write_volume
from seg_transfer.data.image import read_image, read_label
from seg_transfer.data.naming import data_files
from seg_transfer.errors import UserError

TURNED = np.array([[0.0, -1.5, 0.0, 4.0], [0.8, 0.0, 0.0, -7.0], [0.0, 0.0, -3.0, 9.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (6, 5, 4)).astype(np.int16)


def pair(path: Path, volume: np.ndarray, *, packed: bool) -> Path:
    """Written by SimpleITK as header and voxels."""
    nib.save(nib.Nifti1Image(volume, TURNED), path.with_name("source.nii"))
    sitk.WriteImage(sitk.ReadImage(str(path.with_name("source.nii"))), str(path), useCompression=packed)
    return path


def changed(path: Path, before: bytes, after: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_header_and_voxels_are_one_image(tmp_path: Path, volume: np.ndarray, packed: bool) -> None:
    path = pair(tmp_path / "a.mhd", volume, packed=packed)
    voxels = tmp_path / ("a.zraw" if packed else "a.raw")
    assert stored_in(path) == (path, voxels) and voxels.is_file()
    expected = read_image([tmp_path / "source.nii"])
    for found in (read_image([path]), read_label(path)):
        np.testing.assert_array_equal(found.array, expected.array)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert data_files(tmp_path) == [path, tmp_path / "source.nii"]

    for name in ("again.mhd", "AGAIN2.MHD"):
        write_volume(tmp_path / name, volume, read_header(path).grid)
        again = tmp_path / name
        assert stored_in(again) == (again,)  # one file, so that it is written whole or not at all
        np.testing.assert_array_equal(read_image([again]).array, expected.array)
        other = sitk.ImageFileReader()
        other.SetFileName(str(again))
        other.SetImageIO("MetaImageIO")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(other.Execute()).transpose(2, 1, 0), volume)
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/passwd", "no name of a file beside it"),
        ("../a.raw", "no name of a file beside it"),
        ("sub/a.raw", "no name of a file beside it"),
        ("..", "no name of a file beside it"),
        ("C:\\a.raw", "no name of a file beside it"),
        ("", "no name of a file beside it"),
        ("b.raw", "the file 'b.raw' with its voxels is missing"),
        ("LIST", "in several files"),
        ("a%02d.raw 1 4 1", "in several files"),
    ],
)
def test_voxels_elsewhere_are_refused(tmp_path: Path, volume: np.ndarray, name: str, message: str) -> None:
    path = changed(pair(tmp_path / "a.mhd", volume, packed=False), b"= a.raw", f"= {name}".encode())
    with pytest.raises(UserError, match=message) as error:
        read_image([path])
    assert str(error.value).startswith(str(path)) and error.value.hint


@pytest.mark.parametrize("line", [b"ElementDataFile: /etc/passwd", b" ElementDataFile : x", b"ElementDataFileX = x"])
def test_a_second_name_of_the_voxels_is_refused(tmp_path: Path, volume: np.ndarray, line: bytes) -> None:
    """MetaIO takes ``:`` for ``=``, and could read another file than the one that was checked."""
    path = changed(pair(tmp_path / "a.mhd", volume, packed=False), b"ElementDataFile", line + b"\nElementDataFile")
    with pytest.raises(UserError, match="its header has the line"):
        read_image([path])


@pytest.mark.parametrize("packed", [True, False])
def test_voxels_that_are_cut_off_or_go_on_are_refused(tmp_path: Path, volume: np.ndarray, packed: bool) -> None:
    path = pair(tmp_path / "a.mhd", volume, packed=packed)
    voxels = stored_in(path)[1]
    content = voxels.read_bytes()
    for other in (content[:-1], content[: len(content) // 2], b"", content + b"more"):
        voxels.write_bytes(other)
        with pytest.raises(UserError, match="cannot be read"):
            read_image([path])
    voxels.unlink()
    voxels.mkdir()
    with pytest.raises(UserError, match="with its voxels is missing"):
        read_image([path])
    voxels.rmdir()
    voxels.write_bytes(content)
    changed(path, b"DimSize = 6 5 4", b"DimSize = 60000 50000 4")
    with pytest.raises(UserError, match=r"claims \d+ bytes|values need"):
        read_image([path])


def test_names_of_other_letters(tmp_path: Path, volume: np.ndarray) -> None:
    path = pair(tmp_path / "a.mhd", volume, packed=False)
    (tmp_path / "a.raw").rename(tmp_path / "größe 1.raw")
    changed(path, b"= a.raw", "= größe 1.raw".encode())
    np.testing.assert_array_equal(read_image([path]).array, read_image([tmp_path / "source.nii"]).array)


def test_a_data_set_of_pairs_is_found_and_copied(tmp_path: Path) -> None:
    source = make_dataset(tmp_path / "source", cases=2)
    for folder, kind in (("imagesTr", "images"), ("labelsTr", "labels")):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for file in sorted((source / folder).glob("*.nii.gz")):
            name = file.name.removesuffix(".nii.gz").removesuffix("_0000")
            sitk.WriteImage(sitk.ReadImage(str(file)), str(tmp_path / "data" / kind / f"{name}.mhd"))
    data = find_dataset(tmp_path / "data")
    assert [path.suffix for path in data.files()] == [".mhd", ".raw"] * 4
    before = [read_image(case.images).array for case in data.cases]
    write_fixed(data, tmp_path / "fixed", workers=0)
    after = find_dataset(tmp_path / "fixed")
    copied, there = ({path.name for path in (tmp_path / each / "images").iterdir()} for each in ("fixed", "data"))
    assert copied == there
    for one, case in zip(before, after.cases, strict=True):
        np.testing.assert_array_equal(read_image(case.images).array, one)
