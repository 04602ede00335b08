from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from seg_transfer.data.checks import Problem, raise_problems
from seg_transfer.data.dataset import find_dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.examine import examine

SHAPE = (6, 5, 4)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six sound cases of two channels."""
    random = np.random.default_rng(0)
    description = {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    for case in "abcdef":
        for channel in range(2):
            save(tmp_path / f"imagesTr/{case}_{channel:04d}.nii.gz", random.normal(size=SHAPE).astype(np.float32))
        save(tmp_path / f"labelsTr/{case}.nii.gz", random.integers(0, 3, SHAPE).astype(np.uint8))
    return tmp_path


def found(root: Path, workers: int = 0) -> list[tuple[str, str, str]]:
    return [(p.case, p.file.name, p.what) for p in examine(find_dataset(root), workers=workers).problems]


def test_sound_cases_have_no_problems(root: Path) -> None:
    assert found(root) == []


def test_the_ignore_label_is_declared_and_some_voxel_must_be_annotated(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    description = json.loads((root / "dataset.json").read_text())
    description["labels"]["ignore"] = 4
    (root / "dataset.json").write_text(json.dumps(description))
    sparse = np.full(SHAPE, 4, np.uint8)
    save(root / "labelsTr/b.nii.gz", sparse)
    sparse[0] = 0
    save(root / "labelsTr/a.nii.gz", sparse)
    save(root / "labelsTr/c.nii.gz", np.full(SHAPE, 5, np.uint8))
    assert found(root) == [
        ("b", "b.nii.gz", "no voxel is annotated: all have the ignore label's value 4"),
        ("c", "c.nii.gz", "label values 5 occur, but only 0, 1, 2, 4 are declared"),
    ]
    assert "1 of 6 labels hold background only: a" in caplog.messages


def test_all_problems_of_all_cases_come_together(root: Path) -> None:
    broken = np.zeros(SHAPE, np.float32)
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    save(root / "imagesTr/a_0001.nii.gz", broken)
    save(root / "labelsTr/a.nii.gz", np.full(SHAPE, 7, np.uint8))
    save(root / "imagesTr/b_0001.nii.gz", np.zeros((6, 5, 3), np.float32))
    save(root / "labelsTr/c.nii.gz", np.ones(SHAPE, np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
    path = root / "imagesTr/d_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    save(root / "labelsTr/e.nii.gz", np.full(SHAPE, 0.5, np.float32))
    expected = [
        ("a", "a_0001.nii.gz", "2 of 120 values are not finite (nan or inf)"),
        ("a", "a.nii.gz", "label values 7 occur, but only 0, 1, 2 are declared"),
        (
            "b",
            "b_0001.nii.gz",
            "does not lie on the grid of b_0000.nii.gz: its shape is 6 x 5 x 3 (x, y, z), not 6 x 5 x 4",
        ),
        ("c", "c.nii.gz", "does not lie on the grid of c_0000.nii.gz: its spacing is 1 x 1 x 2 mm, not 1 x 1 x 3"),
        ("d", "d_0000.nii.gz", "cannot be read: "),
        ("e", "e.nii.gz", "label values must be whole numbers, but 0.5 occurs (120 such voxels)"),
    ]
    problems = found(root)
    assert [
        (case, file, what[: len(start)]) for (case, file, what), (_, _, start) in zip(problems, expected, strict=True)
    ] == expected
    assert found(root, workers=2) == problems

    with pytest.raises(UserError) as raised:
        raise_problems(examine(find_dataset(root), workers=0).problems)
    text = str(raised.value)
    assert "6 problem(s) in 5 case(s)" in text
    assert all(file in text for _, file, _ in problems)
    assert text.count("hint: ") == 7


def test_missing_and_misspelt_files_are_matched(root: Path) -> None:
    (root / "imagesTr/a_0001.nii.gz").rename(root / "imagesTr/a_001.nii.gz")
    (root / "labelsTr/b.nii.gz").rename(root / "labelsTr/b_0000.nii.gz")
    (root / "labelsTr/c.nii.gz").unlink()
    (root / "imagesTr/d_0001.nii.gz").unlink()
    (root / "imagesTr/d_0001.nii.gz").symlink_to(root / "nowhere.nii.gz")
    problems = {problem.file.name: problem for problem in examine(find_dataset(root), workers=0).problems}
    assert {name: problem.case for name, problem in problems.items()} == {
        "a_0001.nii.gz": "a",
        "a_001.nii.gz": "a_001",
        "b.nii.gz": "b",
        "b_0000.nii.gz": "b_0000",
        "c.nii.gz": "c",
        "d_0001.nii.gz": "d",
    }
    assert problems["a_0001.nii.gz"].what == "there is no such file"
    assert problems["a_0001.nii.gz"].hint == "put it there; is a_001.nii.gz meant?"
    assert problems["a_001.nii.gz"].what.startswith("its name does not end with _ and the four digits")
    assert problems["b_0000.nii.gz"].what == "no image belongs to this label"
    assert problems["c.nii.gz"].hint.startswith("put it there")


def test_number_of_channels(root: Path) -> None:
    save(root / "imagesTr/a_0002.nii.gz", np.zeros(SHAPE, np.float32))
    save(root / "imagesTr/b_0001.nii.gz", np.zeros((*SHAPE, 2), np.float32))
    what = "the case has 3 channel(s), but the data set names 2: CT, PET"
    assert found(root) == [("a", "a_0000.nii.gz", what), ("b", "b_0000.nii.gz", what)]


def test_a_grey_2d_image_among_colour_ones(tmp_path: Path) -> None:
    for case in "ab":
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        pixels = np.zeros((4, 4, 3), np.uint8) if case == "a" else np.zeros((4, 4), np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"images/{case}.png")
        Pillow.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / f"labels/{case}.png")
    assert found(tmp_path) == [("b", "b.png", "the case has 1 channel(s), but the data set names 3: R, G, B")]


def test_empty_labels_are_said_but_no_problem(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    save(root / "labelsTr/c.nii.gz", np.zeros(SHAPE, np.uint8))
    save(root / "labelsTr/a.nii.gz", np.zeros(SHAPE, np.uint8))
    assert found(root) == []
    assert caplog.messages[-1:] == ["2 of 6 labels hold background only: a, c"]


def test_a_label_stored_in_another_orientation_fits(root: Path) -> None:
    label = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    affine = np.diag([-1.0, 1.0, 3.0, 1.0])
    affine[0, 3] = SHAPE[0] - 1
    save(root / "labelsTr/a.nii.gz", label[::-1], affine)
    assert found(root) == []
    affine[0, 3] += 0.02
    save(root / "labelsTr/a.nii.gz", label[::-1], affine)
    assert [what for _, _, what in found(root)] == [
        "does not lie on the grid of a_0000.nii.gz: "
        "its corners lie up to 0.02 voxels off (origin or orientation differ; 0.01 is allowed)"
    ]


def test_a_damaged_checksum_is_found(root: Path) -> None:
    path = root / "imagesTr/a_0000.nii.gz"
    save(path, np.random.default_rng(2).normal(size=(30, 30, 30)).astype(np.float32))
    save(root / "imagesTr/a_0001.nii.gz", np.zeros((30, 30, 30), np.float32))
    save(root / "labelsTr/a.nii.gz", np.ones((30, 30, 30), np.uint8))
    assert found(root) == []
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert [(case, what[:32]) for case, _, what in found(root)] == [("a", "cannot be read: CRC check failed")]


def test_the_message_names_file_and_hint() -> None:
    with pytest.raises(
        UserError, match=r"1 problem\(s\) in 1 case\(s\):\n  a\.nii: it is odd\n    hint: make it even\n"
    ):
        raise_problems([Problem("a", Path("a.nii"), "it is odd", "make it even")])


@pytest.mark.parametrize("name", ["cells", "sarcoma"])
def test_real_data_sets_are_sound(shared: Path, name: str) -> None:
    assert examine(find_dataset(shared / "data" / name), workers=0).problems == []


def test_a_file_of_a_case_is_not_suggested_for_a_missing_one(root: Path) -> None:
    (root / "imagesTr/a_0001.nii.gz").unlink()
    (problem,) = examine(find_dataset(root), workers=0).problems
    assert (problem.file.name, problem.hint) == ("a_0001.nii.gz", "put it there")
