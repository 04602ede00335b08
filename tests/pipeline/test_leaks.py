"""Copies of a case under another name, in files that differ: found when planning, and never straddling folds."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import LOCAL, QUICK, make_dataset
from PIL import Image as Pillow

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.planning.examine import examine


def copy_case(data: Path, case: str, name: str, *, label: bool = True) -> None:
    """Store a case again, mirrored along two axes on disk and as another type, or with other labels."""
    for folder, ending in (("imagesTr", "_0000"), ("labelsTr", "")):
        image = nibabel.load(data / folder / f"{case}{ending}.nii.gz")
        array, affine = np.asarray(image.dataobj), image.affine.copy()
        if folder == "imagesTr":
            array = array.astype(np.float64)
        elif not label:
            array = np.where(array == 4, 1, array)
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        flip[:2, 3] = array.shape[0] - 1, array.shape[1] - 1
        nibabel.save(nibabel.Nifti1Image(array[::-1, ::-1], affine @ flip), data / folder / f"{name}{ending}.nii.gz")


def test_copies_are_said_and_never_straddle_folds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_dataset(tmp_path / "data", cases=4)
    copy_case(data, "case_1", "copied")
    copy_case(data, "case_2", "relabelled", label=False)
    made = seg_transfer.plan(data, work=tmp_path / "work", **QUICK, **LOCAL)
    said = caplog.text
    assert "case_1 and copied hold the same image and the same label: they share a fold" in said
    assert "case_2 and relabelled hold the same image under different labels" in said
    for split in made.recipe.splits:
        for pair in [{"case_1", "copied"}, {"case_2", "relabelled"}]:
            assert len(pair & set(split.validation)) in (0, 2)

    caplog.clear()
    for name in ("case_0", "case_3"):
        copy_case(data, name, f"{name}_copied")
    seg_transfer.plan(data, work=tmp_path / "more", **QUICK, **LOCAL)
    assert caplog.text.count("hold the same image") == 2
    assert "2 more such images: `segtl check` lists them" in caplog.text
    for name in ("case_0", "case_3"):
        for folder in ("imagesTr", "labelsTr"):
            next((data / folder).glob(f"{name}_copied*")).unlink()

    own = tmp_path / "own.json"
    cases = list(made.data.cases)
    own.write_text(json.dumps([{"train": [case for case in cases if case != "copied"], "val": ["copied"]}]))
    seg_transfer.plan(data, work=tmp_path / "work", splits=own, **QUICK, **LOCAL)  # measured above
    assert "own.json: fold 0 trains on case_1 and validates on copied: the same image" in caplog.text


def test_2d_images_of_another_format_are_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for case in "abc":
        pixels = random.integers(0, 256, (9, 8, 3)).astype(np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"images/{case}.png")
        Pillow.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / f"labels/{case}.png")
    Pillow.open(tmp_path / "images/b.png").save(tmp_path / "images/z.bmp")
    Pillow.open(tmp_path / "labels/b.png").save(tmp_path / "labels/z.png")
    made = examine(find_dataset(tmp_path), workers=0).fingerprint()
    assert [(same.cases, same.same_label) for same in made.duplicates()] == [(("b", "z"), True)]
