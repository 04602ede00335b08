"""What people bring, through the commands: damaged files are named one by one, headers are kept, names are flexible."""

from __future__ import annotations

import gzip
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work

import seg_transfer
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    made = make_work(tmp_path_factory.mktemp("made") / "work", data)
    add_run(made, ball_plan(Dataset.load(made.dataset), "2d"), folds=(0,))
    return made


def change(path: Path, edit: Callable[[nib.Nifti1Header], None]) -> None:
    """Change the header of a .nii.gz in the file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    edit(header)
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(content))


def empty_axis(path: Path) -> None:
    change(path, lambda header: header["dim"].__setitem__(2, 0))


def fewer_slices(path: Path) -> None:
    change(path, lambda header: header["dim"].__setitem__(3, header["dim"][3] - 1))


def absurd_spacing(path: Path) -> None:
    change(path, lambda header: header.set_sform(np.diag([1e-30, 1e-30, 1e-30, 1])))


def colours(path: Path) -> None:
    change(path, lambda header: header.__setitem__("datatype", 128))


def checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


FAULTS = {
    empty_axis: "it has no voxels",
    fewer_slices: "but the file holds more",
    absurd_spacing: "its spacing is 1e-30",
    colours: "RGB voxels",
    checksum: "CRC check failed",
}


def test_damaged_images_are_refused_by_predict_and_the_others_are_done(work, data: Path, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    source = data / "imagesTr/case_0_0000.nii.gz"
    for name in ("sound", *(fault.__name__ for fault in FAULTS)):
        shutil.copy(source, images / f"{name}.nii.gz")
    for fault in FAULTS:
        fault(images / f"{fault.__name__}.nii.gz")
    with pytest.raises(SomeCasesFailed) as error:
        seg_transfer.predict(images, output, work=work.path, device="cpu")
    assert sorted(error.value.failures) == sorted(fault.__name__ for fault in FAULTS)
    for fault, cause in FAULTS.items():
        assert cause in error.value.failures[fault.__name__]
    assert [path.name for path in output.glob("*.nii*")] == ["sound.nii.gz"]


def test_damaged_files_are_refused_by_plan_and_evaluate(work, data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(data, tmp_path / "balls")
    images, labels = sorted((copy / "imagesTr").iterdir()), sorted((copy / "labelsTr").iterdir())
    empty_axis(images[0])
    checksum(images[1])
    fewer_slices(labels[2])
    with pytest.raises(UserError, match=r"3 problem\(s\) in 3 case\(s\)") as error:
        seg_transfer.plan(copy, work=tmp_path / "work", workers=0, device="cpu")
    for path, cause in ((images[0], "no voxels"), (images[1], "CRC"), (labels[2], "but the file holds more")):
        assert any(str(path) in line and cause in line for line in str(error.value).splitlines())
    assert not (tmp_path / "work").exists()
    scores = seg_transfer.evaluate(copy / "labelsTr", data / "labelsTr", workers=0)
    assert list(scores.failures) == ["case_2"]


def test_the_form_that_is_used_is_said_and_both_are_written(
    work, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(data, tmp_path / "balls")
    (copy / "images").mkdir()
    for path in sorted((copy / "imagesTr").iterdir())[:2]:
        image = nib.load(path)
        moved = image.affine.copy()
        moved[:3, 3] += (10, 5, 3)
        change(path, lambda header, moved=moved: header.set_qform(moved, code=2))
        shutil.copy(path, copy / f"images/{path.name.removesuffix('_0000.nii.gz')}.NII.GZ")
    caplog.set_level(logging.WARNING)
    output = seg_transfer.predict(copy / "images", tmp_path / "labels", work=work.path, device="cpu")
    said = (
        "the sform and the qform (pixdim, without a qform) place the image up to 11.6 mm apart "
        "in 2 of {} NIfTI file(s); the sform is used: "
    )
    assert said.format(2) + "case_0.NII.GZ, case_1.NII.GZ" in caplog.messages
    for name in ("case_0", "case_1"):
        itk = [sitk.ReadImage(str(path)) for path in (copy / f"imagesTr/{name}_0000.nii.gz", output / f"{name}.nii.gz")]
        assert itk[0].GetOrigin() == itk[1].GetOrigin() and itk[0].GetDirection() == itk[1].GetDirection()
        np.testing.assert_array_equal(
            nib.load(output / f"{name}.nii.gz").affine, nib.load(copy / f"imagesTr/{name}_0000.nii.gz").affine
        )

    caplog.clear()
    seg_transfer.plan(
        copy, work=tmp_path / "work", workers=0, device="cpu", weights="none", folds=2, memory=10**9, config="2d"
    )
    assert said.format(8) + "case_0_0000.nii.gz, case_1_0000.nii.gz" in caplog.messages
