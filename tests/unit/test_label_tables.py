"""Names of labels in the headers of label maps, for other programs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from seg_transfer.data.formats import read_header, write_volume
from seg_transfer.data.formats.label_table import colour
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import read_label

NAMES = {"liver": 1, "<T & ü>\n2": 7, "absent": 300}
TURNED = np.array([[0.0, -1.5, 0.0, 4.0], [0.8, 0.0, 0.0, -7.0], [0.0, 0.0, -3.0, 9.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def labels() -> np.ndarray:
    array = np.zeros((6, 5, 4), np.uint16)
    array[1:4, 2:, 3] = 1
    array[5, 0, 0] = 7
    return array


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_has_a_label_table_that_keeps_the_voxels(tmp_path: Path, labels, name: str, version: type) -> None:
    nib.save(version(labels, TURNED), tmp_path / f"in_{name}")
    write_volume(tmp_path / name, labels, read_header(tmp_path / f"in_{name}").grid, NAMES)
    found = nib.load(tmp_path / name)
    (extension,) = found.header.extensions
    assert extension.get_code() == 30
    table = ElementTree.fromstring(extension.content.rstrip(b"\0")).findall("VolumeInformation/LabelTable/Label")
    assert [(row.text, int(row.get("Key"))) for row in table] == [
        ("background", 0),
        ("liver", 1),
        ("<T & ü> 2", 7),
        ("absent", 300),
    ]
    assert found.header.get_intent()[0] == "label"
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), labels)
    if version is nib.Nifti1Image:  # SimpleITK does not read the other one
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))).T, labels)
    np.testing.assert_array_equal(found.affine, nib.load(tmp_path / f"in_{name}").affine)
    np.testing.assert_array_equal(read_label(tmp_path / name).array, read_label(tmp_path / f"in_{name}").array)


def test_segments_of_slicer_are_read_back(tmp_path: Path, labels: np.ndarray) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_volume(path, labels, Grid(labels.shape, TURNED), NAMES)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, labels)
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert fields["Segment0_Name"] == "liver" and fields["Segment1_LabelValue"] == "7"
    assert [fields[f"Segment{number}_Extent"] for number in range(3)] == [
        "1 3 2 4 3 3",
        "5 5 0 0 0 0",
        "0 -1 0 -1 0 -1",
    ]
    assert fields["Segment0_Color"] == " ".join(map(str, colour(0))) != fields["Segment1_Color"]
    assert fields["Segmentation_SourceRepresentation"] == "Binary labelmap"
    header = read_header(path)
    assert header.segments is not None
    assert [(each.name, each.value) for each in header.segments] == [("liver", 1), ("<T & ü> 2", 7), ("absent", 300)]
    np.testing.assert_allclose(header.affine, TURNED)
    other = {"liver": 2, "<T & ü> 2": 1, "absent": 3}
    found = read_label(path, names=other).array
    assert np.count_nonzero(found == 2) == 9 and np.count_nonzero(found == 1) == 1


def test_a_flat_segmentation_is_a_volume(tmp_path: Path, labels: np.ndarray) -> None:
    write_volume(tmp_path / "a.seg.nrrd", labels[..., 3:], Grid((6, 5, 1), np.eye(4), flat=True), NAMES)
    assert sitk.ReadImage(str(tmp_path / "a.seg.nrrd")).GetSize() == (6, 5, 1)


def test_colours_of_neighbours_differ() -> None:
    found = np.array([colour(number) for number in range(40)])
    assert found.min() >= 0 and found.max() <= 1
    assert np.abs(np.diff(found, axis=0)).sum(axis=1).min() > 0.3
