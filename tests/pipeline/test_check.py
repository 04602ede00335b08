"""`segtl check` on data sets with one fault each: what is said of it, and the exit code."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import make_case, make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.workflow.check import CheckReport


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten cases of about the same size without a fault."""
    return make_dataset(tmp_path_factory.mktemp("whole") / "data", cases=10)


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def found(report: CheckReport) -> list[tuple[str, str | None, str]]:
    return [(finding.severity, finding.case, finding.what) for finding in report.findings]


def edit(
    path: Path, change: Callable[[np.ndarray], np.ndarray], affine: Callable[[np.ndarray], np.ndarray] | None = None
) -> None:
    image = nibabel.load(path)
    array = change(np.asarray(image.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(array, image.affine if affine is None else affine(image.affine)), path)


def test_a_data_set_without_a_fault(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = seg_transfer.check(data, workers=0)
    assert [one for one in found(report) if one[0] != "note"] == []
    assert [(label.name, label.cases) for label in report.labels] == [("ball", 10), ("core", 10)]
    assert main(["check", str(data), "--workers", "0", "--strict"]) == 0
    out = capsys.readouterr().out
    assert "10 cases, layout nnunet" in out
    assert "0 problem(s), 0 warning(s)" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]  # nothing was written


@pytest.mark.parametrize("strict", [False, True])
def test_a_warning_is_an_error_where_that_is_asked_for(data: Path, strict: bool) -> None:
    for name in ("imagesTr/case_3_0000.nii.gz", "labelsTr/case_3.nii.gz"):
        edit(data / name, lambda array: array, lambda affine: affine @ np.diag([10.0, 10.0, 10.0, 1.0]))
    report = seg_transfer.check(data, workers=0)
    assert {(severity, case) for severity, case, _ in found(report)} - {("note", None)} == {("warning", "case_3")}
    assert any(what.startswith("spacing in mm: along x 10, expected") for _, _, what in found(report))
    assert main(["check", str(data), "--workers", "0", *(["--strict"] if strict else [])]) == (3 if strict else 0)


def test_problems_of_some_cases_do_not_hide_those_of_others(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(
        data / "imagesTr" / "case_0_0000.nii.gz", lambda array: np.where(array > 200, np.nan, array).astype(np.float32)
    )
    cut = data / "labelsTr" / "case_1.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    shutil.copy(data / "imagesTr" / "case_3_0000.nii.gz", data / "imagesTr" / "copy_0000.nii.gz")
    shutil.copy(data / "labelsTr" / "case_3.nii.gz", data / "labelsTr" / "copy.nii.gz")
    edit(data / "labelsTr" / "case_4.nii.gz", np.zeros_like)
    assert main(["check", str(data), "--workers", "0", "--json"]) == 3
    report = CheckReport.model_validate_json(capsys.readouterr().out)
    problems = {case: what for severity, case, what in found(report) if severity == "problem"}
    assert problems.keys() == {"case_0", "case_1"}
    assert "are not finite" in problems["case_0"]
    assert ("warning", "case_3", "case_3 and copy hold the same image and the same label") in found(report)
    assert ("note", "case_4", "its label holds background only: right for a healthy case") in found(report)
    assert report.cases == 11
    filled = seg_transfer.check(data, workers=0, nan="fill")
    assert {case for severity, case, _ in found(filled) if severity == "problem"} == {"case_1"}


def test_stray_voxels_of_a_label_are_found(data: Path) -> None:
    def stray(array: np.ndarray) -> np.ndarray:
        array[0, 0, 0] = array[-1, -1, -1] = 1
        return array

    edit(data / "labelsTr" / "case_5.nii.gz", stray)
    (text,) = [what for severity, case, what in found(seg_transfer.check(data, workers=0)) if case == "case_5"]
    assert text.startswith("ball is in 3 fragments (the largest has")
    assert text.endswith("in 9 of 9 other cases in one")


def test_every_case_may_have_a_problem(data: Path) -> None:
    for path in (data / "labelsTr").iterdir():
        path.unlink()
    (data / "labelsTr" / "case_0.nii.gz").write_bytes(b"no image")
    report = seg_transfer.check(data, workers=0)
    assert report.count("problem") == 10
    assert report.labels == []


def test_a_patient_on_both_sides_of_a_fold_is_found(data: Path) -> None:
    cases = [f"case_{index}" for index in range(10)]
    (data.parent / "splits.json").write_text(json.dumps([{"train": cases[:8], "val": cases[8:]}]))
    (data.parent / "groups.csv").write_text("".join(f"{case},{index // 4}\n" for index, case in enumerate(cases)))
    report = seg_transfer.check(data, workers=0, splits=data.parent / "splits.json", groups=data.parent / "groups.csv")
    assert not [what for severity, _, what in found(report) if severity == "warning"]
    (data.parent / "groups.csv").write_text("".join(f"{case},{index // 3}\n" for index, case in enumerate(cases)))
    report = seg_transfer.check(data, workers=0, splits=data.parent / "splits.json", groups=data.parent / "groups.csv")
    (warning,) = [what for severity, _, what in found(report) if severity == "warning"]
    assert "fold 0 trains on case_6 and case_7 and validates on case_8: one group, 2" in warning


def test_the_same_of_many_cases_is_said_once(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "labelsTr").iterdir():
        edit(path, lambda array: array.astype(np.float32))
    assert main(["check", str(data), "--workers", "0"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "note" in line]
    assert len(rows) == 2  # the row and the last line, which counts
    assert "case_0, case_1, case_2" in rows[0]
    assert rows[1] == "0 problem(s), 0 warning(s), 10 note(s)"


def test_names_of_several_images_of_a_patient_are_noted(tmp_path: Path) -> None:
    for index in range(6):
        make_case(tmp_path / "data", f"patient{index // 2}_scan{index % 2}", seed=index)
    description = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "ball": 1, "core": 4},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description))
    (note,) = [one for one in seg_transfer.check(tmp_path / "data", workers=0).findings if "one patient" in one.what]
    regex = note.hint.split("'")[1]
    told = seg_transfer.check(tmp_path / "data", workers=0, group_by=regex)
    assert not [one for one in told.findings if "one patient" in one.what]
    cases = [f"patient{index // 2}_scan{index % 2}" for index in range(6)]
    (tmp_path / "splits.json").write_text(json.dumps([{"train": cases[:3], "val": cases[3:]}]))
    report = seg_transfer.check(tmp_path / "data", workers=0, splits=tmp_path / "splits.json")
    (warning,) = [one for one in report.findings if one.severity == "warning"]
    assert "trains on patient1_scan0 and validates on patient1_scan1: one group, patient1" in warning.what
    assert "if their names tell the patient" in warning.hint


def test_a_header_without_orientation_is_found(data: Path) -> None:
    path = data / "imagesTr" / "case_2_0000.nii.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(gzip.compress(raw))
    report = seg_transfer.check(data, workers=0)
    assert any(case == "case_2" and "neither sform nor qform" in what for _, case, what in found(report))


def test_what_is_mended_is_found_before_and_not_after(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(data / "labelsTr" / "case_2.nii.gz", lambda array: array.astype(np.float32))
    copy = data.parent / "copy"
    assert main(["check", str(data), "--workers", "0", "--fix", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "its label values are floating-point numbers" in out
    assert f"fixed copy: {copy}" in out
    assert not [one for one in seg_transfer.check(copy, workers=0).findings if "floating" in one.what]
    assert main(["check", str(data), "--workers", "0", "--fix", str(copy)]) == 2
    assert "this folder is not empty" in capsys.readouterr().err


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot identify the folder of images"):
        seg_transfer.check(tmp_path, workers=0)
