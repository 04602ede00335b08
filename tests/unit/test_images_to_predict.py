"""Images to predict: channels that the model does not have are refused, and why nothing is found is said."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest

from seg_transfer.data.dataset import find_dataset, find_images
from seg_transfer.errors import UserError
from seg_transfer.evaluation.score_files import find_label_maps

DICOM = bytes(128) + b"DICM" + bytes(100)


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), folder / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("names", "channels", "extra"),
    [
        (["p1_0000", "p1_0001"], 1, "p1_0001.nii.gz"),
        (["p1_0000", "p1_0001", "p1_0002", "p1_0003"], 2, "p1_0002.nii.gz, p1_0003.nii.gz"),
        (["a_0000", "b_0001"], 1, "b_0001.nii.gz"),  # the folder numbers channels
        (["a_0001", "b_0001"], 1, "a_0001.nii.gz, b_0001.nii.gz"),  # cases are not all numbered the same
        (["a_0002", "b_0002", "c"], 2, "a_0002.nii.gz, b_0002.nii.gz"),
        (["a_0000", *(f"a_{n:04d}" for n in range(1, 6))], 1, "a_0003.nii.gz and 2 more"),
    ],
)
def test_a_channel_that_the_model_does_not_have_is_refused(
    names: list[str], channels: int, extra: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=rf"the model has {channels} channel\(s\), but there is a further one: "
    ) as error:
        find_images(put(tmp_path, *names), channels)
    assert extra in error.value.what and error.value.hint


@pytest.mark.parametrize(
    ("names", "channels", "cases", "warned"),
    [
        (["scan_2020", "scan_2021", "x_0000"], 1, ["scan_2020", "scan_2021", "x"], False),
        (["amos_0001", "amos_0004", "amos_0600"], 1, ["amos_0001", "amos_0004", "amos_0600"], True),
        (["anna_2021", "bert_2021"], 1, ["anna_2021", "bert_2021"], False),
        (["liver_001", "p0001"], 1, ["liver_001", "p0001"], False),
    ],
)
def test_four_digits_of_a_name_stay_a_name(
    names: list[str], channels: int, cases: list[str], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert [case.id for case in find_images(put(tmp_path, *names), channels)] == cases
    assert ("are taken for those of cases" in caplog.text) == warned


def test_a_named_file_is_the_whole_input_of_one_channel(tmp_path: Path) -> None:
    put(tmp_path, "p1_0000", "p1_0001", "p1_0002", "p2_0000", "p2_0001")
    assert [case.id for case in find_images(tmp_path / "p1_0000.nii.gz", 1)] == ["p1"]
    with pytest.raises(UserError, match=r"further one: p1_0001\.nii\.gz$|further one: p1_0001\.nii\.gz\n"):
        find_images(tmp_path / "p1_0001.nii.gz", 1)
    with pytest.raises(UserError, match=r"further one: p1_0002\.nii\.gz"):
        find_images(tmp_path / "p1_0000.nii.gz", 2)
    (case,) = find_images(tmp_path / "p2_0001.nii.gz", 2)
    assert [path.name for path in case.images] == ["p2_0000.nii.gz", "p2_0001.nii.gz"]


def test_why_there_is_no_image_is_said(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(UserError) as error:
            find_images(path, 1)
        assert error.value.hint
        return str(error.value)

    assert "there is no such file or folder\n" in said(tmp_path / "absent.nii.gz")
    assert f"there is no such file or folder; {tmp_path} is as far as it exists" in said(tmp_path / "a" / "b" / "c")
    (tmp_path / "empty").mkdir()
    assert "the folder is empty" in said(tmp_path / "empty")
    (tmp_path / "notes").mkdir()
    for name in ("a.txt", "b.txt", "README"):
        (tmp_path / "notes" / name).write_text("x")
    assert "there is no image among 3 file(s): 2 with .txt, 1 with no ending" in said(tmp_path / "notes")
    assert "not a supported file format" in said(tmp_path / "notes" / "a.txt")
    put(tmp_path / "set" / "imagesTs", "a")
    assert f"there are files in imagesTs/\n  hint: give {tmp_path / 'set' / 'imagesTs'}" in said(tmp_path / "set")


@pytest.mark.parametrize("name", ["IM0001", "slice.dcm", "series/IM0001", "patient/series/1.2.840.dcm"])
def test_dicom_is_told_apart(name: str, tmp_path: Path) -> None:
    file = tmp_path / "dicom" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(DICOM)
    for look in (lambda path: find_images(path, 1), find_dataset, find_label_maps):
        with pytest.raises(UserError, match=r"DICOM, which has to be converted\n  hint: `segtl convert"):
            look(tmp_path / "dicom")
    with pytest.raises(UserError, match="this is a DICOM file"):
        find_images(file, 1)


def test_a_data_set_in_nnunet_layout_whose_images_are_dicom(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.dcm").write_bytes(DICOM)
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}}')
    with pytest.raises(UserError, match=r"imagesTr: there is no image, but DICOM"):
        find_dataset(tmp_path)
