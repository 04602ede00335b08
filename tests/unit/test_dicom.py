"""DICOM series become volumes in the world's place, and what is none is named."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_dicom import Change, write_series
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dicom import find_series
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.workflow.convert import SERIES_FILE, SeriesList

VOLUME = np.random.default_rng(0).integers(-1000, 1500, (12, 10, 8)).astype(np.int16)


def affine_of(rotation: np.ndarray, spacing: tuple[float, float, float] = (0.7, 0.9, 2.5)) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3] = rotation * spacing
    made[:3, 3] = (-31.5, 20, -1200)
    return made


AXIAL = affine_of(np.diag([-1.0, -1.0, 1.0]))
TURNED = Rotation.from_euler("zyx", (12, -7, 20), degrees=True).as_matrix()
DIRECTIONS = {
    "axial": np.diag([-1.0, -1.0, 1.0]),
    "axial, prone": np.diag([1.0, 1.0, 1.0]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "sagittal": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "oblique": TURNED @ np.diag([-1.0, -1.0, 1.0]),
    "oblique coronal": TURNED @ np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_volume_lies_where_it_was(direction: np.ndarray, tmp_path: Path) -> None:
    affine = affine_of(direction)
    write_series(tmp_path / "study" / "series", VOLUME, affine)
    (found,) = seg_transfer.convert(tmp_path / "study", tmp_path / "images")
    image = nibabel.load(tmp_path / "images" / f"{found.name}.nii.gz")
    values = np.asarray(image.dataobj)
    if np.linalg.det(affine[:3, :3]) < 0:  # slices were written against their normal
        values = values[..., ::-1]
        np.testing.assert_allclose(image.affine @ [0, 0, 7, 1], affine @ [0, 0, 0, 1], atol=1e-3)
    else:
        np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(values, VOLUME)
    assert image.get_data_dtype() == np.int16


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_simpleitk_reads_the_same(direction: np.ndarray, tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOLUME, affine_of(direction))
    (found,) = seg_transfer.convert(tmp_path / "series", tmp_path / "images")
    ours = sitk.ReadImage(str(tmp_path / "images" / f"{found.name}.nii.gz"))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series"))
    theirs = sitk.ReadImage(names)
    assert ours.GetSize() == theirs.GetSize()
    for index in ((0, 0, 0), (11, 0, 7), (3, 9, 2)):
        place = theirs.TransformIndexToPhysicalPoint(index)
        here = ours.TransformPhysicalPointToContinuousIndex(place)
        nearest = [round(value) for value in here]
        np.testing.assert_allclose(here, nearest, atol=1e-3)
        assert ours[nearest] == theirs[index]


def test_a_study_of_several_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other files, folders below folders, and names that must not become paths."""
    study = tmp_path / "study"
    one = write_series(study / "a" / "b", VOLUME, AXIAL, number=2, description="../../etc: Thorax ü")
    two = write_series(study / "c", VOLUME[..., :5], AXIAL, number=10)
    (study / "DICOMDIR").write_bytes(b"\0" * 128 + b"nothing")
    (study / "readme.txt").write_text("x")
    found = find_series(study)
    assert [series.uid for series in found] == [one, two]
    assert [series.grid.shape for series in found if series.grid] == [(12, 10, 8), (12, 10, 5)]
    assert main(["convert", str(study), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["number"] for each in listed] == ["2", "10"]
    assert main(["convert", str(study), "-o", str(tmp_path / "out"), "--series", "10"]) == 0
    assert main(["convert", str(study), "-o", str(tmp_path / "out"), "--series", one]) == 0
    made = SeriesList.load(tmp_path / "out" / SERIES_FILE).series
    assert [each.uid for each in made] == [two, one]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [SERIES_FILE, *(f"{each.name}.nii.gz" for each in made)]
    )
    assert all(
        "Miller" not in path.name and b"Miller" not in path.read_bytes() for path in (tmp_path / "out").iterdir()
    )
    assert all(each.name.isascii() and "/" not in each.name for each in made)
    with pytest.raises(UserError, match="no series '4'"):
        seg_transfer.convert(study, series=["4"])


def test_an_archive(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOLUME, AXIAL)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"../../{path.name}")
    (found,) = seg_transfer.convert(tmp_path / "study.zip", tmp_path / "images")
    assert found.shape == (12, 10, 8)
    assert {path.name for path in tmp_path.iterdir()} == {"series", "study.zip", "images"}
    whole = (tmp_path / "study.zip").read_bytes()
    for content in (b"PK\3\4 nothing", whole[: len(whole) // 2], b""):
        (tmp_path / "study.zip").write_bytes(content)
        with pytest.raises(UserError, match="cannot be unpacked"):
            seg_transfer.convert(tmp_path / "study.zip", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def rescaled(one: Dataset, index: int) -> None:
    one.RescaleSlope, one.RescaleIntercept = 0.5 + index, -3.25


def test_slices_with_factors_of_their_own(tmp_path: Path) -> None:
    """As of PET."""
    write_series(tmp_path / "series", VOLUME, AXIAL, change=rescaled)
    (found,) = seg_transfer.convert(tmp_path / "series", tmp_path / "images")
    image = nibabel.load(tmp_path / "images" / f"{found.name}.nii.gz")
    expected = (VOLUME.astype(np.float64) + 1024) * (0.5 + np.arange(8)) - 3.25
    np.testing.assert_allclose(np.asarray(image.dataobj), expected, rtol=1e-6)
    assert image.get_data_dtype() == np.float32


def one_of(index_changed: int, **values: object) -> Change:
    def change(one: Dataset, index: int) -> None:
        if index == index_changed:
            for name, value in values.items():
                if value is None:
                    delattr(one, name)
                else:
                    setattr(one, name, value)

    return change


def tilted(one: Dataset, index: int) -> None:
    x, y, z = map(float, one.ImagePositionPatient)
    one.ImagePositionPatient = [x, y + index * 2.5 * np.tan(np.radians(10)), z]


def varying(one: Dataset, index: int) -> None:
    x, y, z = map(float, one.ImagePositionPatient)
    one.ImagePositionPatient = [x, y, z + 0.1 * index**1.5]


def twice(one: Dataset, index: int) -> None:
    x, y, z = map(float, one.ImagePositionPatient)
    one.ImagePositionPatient = [x, y, z - 2.5 * (index % 2)]


def frames(one: Dataset, index: int) -> None:
    one.NumberOfFrames = 2
    one.PixelData = one.PixelData * 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (tilted, "gantry was tilted by 10.0 degrees"),
        (varying, "distances of its slices vary"),
        (twice, "lie where another one does"),
        (frames, "several frames"),
        (one_of(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "different orientations"),
        (one_of(2, PixelSpacing=[0.9, 0.8]), "different pixel spacings"),
        (one_of(2, Rows=5, PixelData=b"\0" * 120), "2 sizes"),
        (one_of(2, ImagePositionPatient=None), "no position"),
        (one_of(2, PixelSpacing=None), "no pixel spacing"),
        (one_of(2, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "orient"),
    ],
)
def test_what_is_no_volume_is_named(change: Change, problem: str, tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "bad", VOLUME, AXIAL, change=change, number=1)
    write_series(tmp_path / "study" / "good", VOLUME, AXIAL, number=2)
    bad, good = seg_transfer.convert(tmp_path / "study")
    assert problem in bad.problem and bad.shape is None
    assert not good.problem
    with pytest.raises(SomeCasesFailed, match=problem):
        seg_transfer.convert(tmp_path / "study", tmp_path / "images")
    assert [path.name for path in sorted((tmp_path / "images").glob("*.nii.gz"))] == [f"{good.name}.nii.gz"]


@pytest.mark.parametrize("removed", [[3], [2, 3, 4], [1, 5]])
def test_missing_slices_are_counted(removed: list[int], tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOLUME, AXIAL)
    (whole,) = find_series(tmp_path)
    for index in removed:
        whole.slices[index].path.unlink()
    (found,) = find_series(tmp_path)
    assert f"about {len(removed)} slice(s) are missing, of 8" in found.problem


def test_damaged_files(tmp_path: Path) -> None:
    write_series(tmp_path / "series", VOLUME, AXIAL)
    (whole,) = find_series(tmp_path)
    content = whole.slices[3].path.read_bytes()
    for end in (140, len(content) // 2, len(content) - 20):
        whole.slices[3].path.write_bytes(content[:end])
        with pytest.raises(SomeCasesFailed):
            seg_transfer.convert(tmp_path / "series", tmp_path / "images")
        assert not list(tmp_path.glob("images/*.nii.gz"))


def test_what_holds_no_series(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no DICOM file")):
        with pytest.raises(UserError, match=message):
            seg_transfer.convert(folder, tmp_path / "images")
    write_series(tmp_path / "series", VOLUME[..., :1], AXIAL)
    with pytest.raises(SomeCasesFailed, match="one slice"):
        seg_transfer.convert(tmp_path / "series", tmp_path / "images")
    shutil.rmtree(tmp_path / "series")
    assert not (tmp_path / "images").exists()
