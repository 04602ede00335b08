"""Label maps as contours in DICOM: the pixel centres within them are the voxels, for any orientation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from test_dicom import AXIAL, DIRECTIONS, affine_of
from test_dicom_seg import LABELS, segmented, work  # noqa: F401

from seg_transfer.cli.app import main
from seg_transfer.exporting.rt_structures import contours_of


def filled(structures: pydicom.Dataset, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Label map of the contours, from the plain attributes: inside where an odd number of contours lies around."""
    found = np.zeros(shape, np.uint8)
    i, j = np.indices(shape[:2]).reshape(2, -1)
    numbers = {each.ROINumber: LABELS[each.ROIName] for each in structures.StructureSetROISequence}
    for roi in structures.ROIContourSequence:
        inside = np.zeros(shape, bool)
        for contour in roi.get("ContourSequence", []):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            homogeneous = np.column_stack([points * (-1, -1, 1), np.ones(len(points))])
            index = (np.linalg.inv(affine) @ homogeneous.T)[:3].T
            k = np.rint(index[0, 2])
            np.testing.assert_allclose(index[:, 2], k, atol=1e-3)
            within = Outline(index[:, :2]).contains_points(np.column_stack([i, j]))
            inside[..., int(k)] ^= within.reshape(shape[:2])
        found[inside] = numbers[roi.ReferencedROINumber]
    return found


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_contours_lie_around_the_voxels(direction: np.ndarray, work: Path, tmp_path: Path) -> None:  # noqa: F811
    file = segmented(tmp_path, affine_of(direction))
    arguments = ["rtstruct", str(tmp_path / "labels"), str(tmp_path / "study"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "-w", str(work)]) == 0
    (written,) = (tmp_path / "out").iterdir()
    made, label = pydicom.dcmread(written), nibabel.load(file)
    np.testing.assert_array_equal(filled(made, label.affine, label.shape), np.asarray(label.dataobj))

    source = pydicom.dcmread(next((tmp_path / "study").iterdir()), stop_before_pixels=True)
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate"):
        assert made[name].value == source[name].value
    assert made.Modality == "RTSTRUCT" and made.SeriesInstanceUID != source.SeriesInstanceUID
    (frame,) = made.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == source.FrameOfReferenceUID
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID and len(series.ContourImageSequence) == 8
    places = {
        str(one.SOPInstanceUID): np.array(one.ImagePositionPatient, float)
        for one in (pydicom.dcmread(each, stop_before_pixels=True) for each in (tmp_path / "study").iterdir())
    }
    normal = np.cross(*np.array(source.ImageOrientationPatient, float).reshape(2, 3))
    for contour in made.ROIContourSequence[0].ContourSequence:
        origin = places[str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)]
        assert abs((np.array(contour.ContourData[:3], float) - origin) @ normal) < 0.01


@pytest.mark.skipif(shutil.which("dcmdump") is None, reason="needs dcmtk")
def test_dcmtk_reads_it(work: Path, tmp_path: Path) -> None:  # noqa: F811
    segmented(tmp_path, AXIAL)
    arguments = ["rtstruct", str(tmp_path / "labels"), str(tmp_path / "study"), "-o", str(tmp_path / "out")]
    assert main([*arguments, "-w", str(work)]) == 0
    (written,) = (tmp_path / "out").iterdir()
    said = subprocess.run(["dcmdump", "+P", "ROIName", str(written)], capture_output=True, check=True)
    assert said.stdout.count(b"ROIName") == 3 and b"[liver]" in said.stdout


def test_holes_and_corners() -> None:
    mask = np.zeros((7, 8, 2), bool)
    mask[1:6, 1:6, 1], mask[3, 3, 1], mask[6, 6, 1], mask[0, 0, 1] = True, False, True, True
    inside = np.zeros((7, 8), bool)
    for k, points in contours_of(mask, np.diag([-1.0, -1.0, 1.0, 1.0])):
        assert k == 1
        centres = np.indices((7, 8)).reshape(2, -1).T
        inside ^= Outline(points[:, :2]).contains_points(centres).reshape(7, 8)
    np.testing.assert_array_equal(inside, mask[..., 1])
