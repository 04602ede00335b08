"""Images that are not finite outside of the field of view: refused, or filled in every step alike."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import LOCAL, QUICK, make_dataset

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow.work_folder import WorkFolder


def blind(path: Path, value: float) -> None:
    """Lose the first columns of an image."""
    image = nibabel.load(path)
    array = np.asarray(image.dataobj, np.float32).copy()
    array[:4] = value
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)


def test_nan_outside_of_the_field_of_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "data")
    images = sorted((data / "imagesTr").iterdir())
    blind(images[0], np.nan)
    blind(images[1], -np.inf)
    with pytest.raises(UserError, match=r"768 of 3840 values are not finite") as refused:
        seg_transfer.plan(data, work=tmp_path / "work", **QUICK, **LOCAL)
    assert "--nan fill" in str(refused.value)

    plan = seg_transfer.plan(data, work=tmp_path / "work", nan="fill", **QUICK, **LOCAL)
    assert plan.data.fill_nan
    assert "least finite one" in next(one.reason for one in plan.reasons if one.field == "data.fill_nan")
    work = WorkFolder(tmp_path / "work")
    measured = Fingerprint.load(work.fingerprint).cases[0].channels[0]
    finite = np.asarray(nibabel.load(images[0]).dataobj)
    assert measured.minimum == pytest.approx(np.nanmin(finite), rel=1e-5)

    seg_transfer.train(0, work=work.path, device="cpu", workers=0)
    store = Store.open(work.store_folder(plan), plan.data)
    assert all(np.isfinite(store.case(case).image[:]).all() for case in store.cases())
    inputs = Path(data / "imagesTr")
    assert main(["predict", "-i", str(inputs), "-o", str(tmp_path / "out"), "-w", str(work.path), "-q"]) == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 4


def test_an_image_without_any_finite_value_is_refused_all_the_same(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    image = data / "imagesTr" / "case_0_0000.nii.gz"
    header = nibabel.load(image)
    nibabel.save(nibabel.Nifti1Image(np.full(header.shape, np.nan, np.float32), header.affine), image)
    with pytest.raises(UserError, match="3840 of 3840 values are not finite"):
        seg_transfer.plan(data, work=tmp_path / "work", nan="fill", **QUICK, **LOCAL)


def test_a_label_that_no_case_holds_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    description = data / "dataset.json"
    description.write_text(description.read_text().replace('"core": 4', '"core": 4, "cyst": 9'))
    seg_transfer.plan(data, work=tmp_path / "work", **QUICK, **LOCAL)
    assert "cannot be learned: cyst" in caplog.text
