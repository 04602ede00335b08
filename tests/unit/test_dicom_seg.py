"""Label maps go back to DICOM: other readers find patient, labels, and the same voxels at the same place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from made_dicom import write_series
from made_plans import data_plan, model_plan, plan
from test_dicom import AXIAL, DIRECTIONS, VOLUME, affine_of

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.planning.data_plan import Label
from seg_transfer.workflow.work_folder import WorkFolder

pytest.importorskip("highdicom")

LABELS = {"background": 0, "liver": 1, "odd <name> ü": 7, "absent": 9}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder whose plan knows the labels."""
    folder = WorkFolder(tmp_path / "work")
    folder.path.mkdir()
    data = data_plan(labels=tuple(Label(name=name, value=value) for name, value in LABELS.items()))
    plan(data, model_plan("2d", (1, 16, 16))).save(folder.plan)
    return folder.path


def segmented(tmp_path: Path, affine: np.ndarray) -> Path:
    """Convert a series, and write a label map of its image whose labels follow intensity."""
    write_series(tmp_path / "study", VOLUME, affine)
    (found,) = seg_transfer.convert(tmp_path / "study", tmp_path / "images")
    image = nibabel.load(tmp_path / "images" / f"{found.name}.nii.gz")
    values = np.asarray(image.dataobj)
    labels = np.select([values > 1000, values > 500], [7, 1], 0).astype(np.uint8)
    labels[..., 3] = 0
    (tmp_path / "labels").mkdir()
    file = tmp_path / "labels" / f"{found.name}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), file)
    return file


def frames_of(dataset: pydicom.Dataset) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Segment, place of the first pixel (LPS) and mask ``(row, column)`` of each frame, from the plain attributes."""
    rows, columns = dataset.Rows, dataset.Columns
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    masks = bits[: int(dataset.NumberOfFrames) * rows * columns].reshape(-1, rows, columns)
    return [
        (
            groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float),
            mask,
        )
        for groups, mask in zip(dataset.PerFrameFunctionalGroupsSequence, masks, strict=True)
    ]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_voxels_lie_where_they_were(direction: np.ndarray, work: Path, tmp_path: Path) -> None:
    file = segmented(tmp_path, affine_of(direction))
    (written,) = seg_transfer.dicom_seg(tmp_path / "labels", tmp_path / "study", tmp_path / "out", work=work)
    made = pydicom.dcmread(written)
    label = nibabel.load(file)
    expected = np.asarray(label.dataobj)
    shared = made.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    to_index = np.linalg.inv(label.affine)
    found = np.zeros_like(expected)
    for segment, place, mask in frames_of(made):
        for row, column in zip(*np.nonzero(mask), strict=True):
            lps = place + cosines[:3] * between_columns * column + cosines[3:] * between_rows * row
            index = to_index @ [-lps[0], -lps[1], lps[2], 1]
            nearest = tuple(np.rint(index[:3]).astype(int))
            np.testing.assert_allclose(index[:3], nearest, atol=1e-3)
            found[nearest] = list(LABELS.values())[segment]
    np.testing.assert_array_equal(found, expected)


def test_patient_and_labels(work: Path, tmp_path: Path) -> None:
    file = segmented(tmp_path, AXIAL)
    source = pydicom.dcmread(next((tmp_path / "study").iterdir()), stop_before_pixels=True)
    assert main(["dicom-seg", str(file), str(tmp_path / "study"), "-o", str(tmp_path / "out"), "-w", str(work)]) == 0
    made = pydicom.dcmread(tmp_path / "out" / f"{file.name.removesuffix('.nii.gz')}.dcm")
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert made[name].value == source[name].value
    assert made.Modality == "SEG" and made.SeriesInstanceUID != source.SeriesInstanceUID
    (referred,) = made.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID and len(referred.ReferencedInstanceSequence) == 8
    segments = made.SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["liver", "odd <name> ü", "absent"]
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert types[0].CodingSchemeDesignator == "SCT" and types[0].CodeMeaning == "Liver"
    assert types[1].CodingSchemeDesignator == "99SEGTL"


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmtk")
def test_dcmtk_reads_it(work: Path, tmp_path: Path) -> None:
    segmented(tmp_path, AXIAL)
    (written,) = seg_transfer.dicom_seg(tmp_path / "labels", tmp_path / "study", tmp_path / "out", work=work)
    said = subprocess.run(["dcmdump", "+P", "SegmentLabel", str(written)], capture_output=True, check=True)
    assert b"liver" in said.stdout and not said.stderr


def test_an_empty_label_map(work: Path, tmp_path: Path) -> None:
    file = segmented(tmp_path, AXIAL)
    label = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), file)
    (written,) = seg_transfer.dicom_seg(tmp_path / "labels", tmp_path / "study", tmp_path / "out", work=work)
    assert not any(mask.any() for _, _, mask in frames_of(pydicom.dcmread(written)))


def test_what_cannot_go_back(work: Path, tmp_path: Path) -> None:
    file = segmented(tmp_path, AXIAL)
    label = nibabel.load(file)
    values = np.asarray(label.dataobj)
    good = file.read_bytes()
    stranger = file.with_name("stranger.nii.gz")
    shutil.copy(file, stranger)
    ask = (tmp_path / "labels", tmp_path / "study", tmp_path / "out")
    with pytest.raises(SomeCasesFailed, match="no series has this name") as failed:
        seg_transfer.dicom_seg(*ask, work=work)
    assert failed.value.others_done and len(list((tmp_path / "out").iterdir())) == 1
    stranger.unlink()
    for array, affine, message in (
        (values, AXIAL @ np.diag([1, 1, 1.1, 1]), "grid of its series"),
        (values[1:], label.affine, "grid of its series"),
        (np.where(values == 7, 8, values).astype(np.uint8), label.affine, r"does not know: \[8\]"),
    ):
        nibabel.save(nibabel.Nifti1Image(array, affine), file)
        with pytest.raises(SomeCasesFailed, match=message):
            seg_transfer.dicom_seg(*ask, work=work)
    file.write_bytes(good)
    for path in (tmp_path / "study").iterdir():
        one = pydicom.dcmread(path)
        del one.FrameOfReferenceUID
        one.save_as(path)
    with pytest.raises(SomeCasesFailed, match="cannot be referred to"):
        seg_transfer.dicom_seg(*ask, work=work)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no label map"):
        seg_transfer.dicom_seg(tmp_path / "empty", tmp_path / "study", tmp_path / "other", work=work)
    assert not (tmp_path / "other").exists()
