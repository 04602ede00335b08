"""qform, sform, codes and units of NIfTI: read as the standard says, converted to mm, and written back as they were."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from seg_transfer.data.checks import FormsApart
from seg_transfer.data.formats import read_header, write_volume
from seg_transfer.data.geometry import grid_difference, to_native
from seg_transfer.data.image import read_image
from seg_transfer.errors import UserError

SHAPE = (6, 5, 4)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 0, -4, 20], [0, 3, 0, 30], [0, 0, 0, 1]])
MOVED = AFFINE + np.array([[0, 0, 0, 10], [0, 0, 0, 5], [0, 0, 0, 3], [0, 0, 0, 0.0]])
SHEARED = AFFINE @ np.array([[1, 0.004, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
PLACING = ("xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
PLACING += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def made(
    path: Path,
    *,
    qform: np.ndarray | None = None,
    sform: np.ndarray | None = None,
    codes: tuple[int, int] = (0, 0),
    unit: int = 2,
    kind: type = nib.Nifti1Image,
) -> Path:
    """A file with these forms; ``codes`` are those of the qform and the sform."""
    array = np.random.default_rng(0).integers(0, 400, SHAPE).astype(np.int16)
    image = kind(array, None)
    image.header["pixdim"][1:4] = (2, 3, 4)
    if qform is not None:
        image.header.set_qform(qform, code=1)
    if sform is not None:
        image.header.set_sform(sform, code=1)
    image.header["qform_code"], image.header["sform_code"] = codes
    image.header["xyzt_units"] = unit
    nib.save(image, path)
    return path


def itk_geometry(path: Path) -> tuple:
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


@pytest.mark.parametrize(
    ("forms", "codes"),
    [
        ({"qform": AFFINE, "sform": AFFINE}, (1, 1)),
        ({"qform": AFFINE, "sform": AFFINE}, (2, 4)),
        ({"qform": AFFINE}, (2, 0)),
        ({"sform": AFFINE}, (0, 3)),
        ({"qform": MOVED, "sform": AFFINE}, (1, 1)),
        ({"qform": MOVED, "sform": AFFINE}, (1, 2)),
        ({"qform": AFFINE, "sform": SHEARED}, (1, 1)),
        ({}, (0, 0)),
    ],
)
@pytest.mark.parametrize("unit", [0, 1, 2, 3, 10, 3 | 16])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_result_lies_on_its_image_in_every_program(tmp_path: Path, forms, codes, unit: int, suffix: str) -> None:
    path, result = made(tmp_path / f"a{suffix}", **forms, codes=codes, unit=unit), tmp_path / f"b{suffix}"
    image = read_image([path])
    write_volume(result, to_native((image.array[0] > 200).astype(np.uint8), image.native), image.native)

    before, after = nib.load(path), nib.load(result)
    for field in PLACING:
        np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)
    np.testing.assert_array_equal(after.header["pixdim"][:4], before.header["pixdim"][:4])
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj) > 200)
    assert itk_geometry(result) == itk_geometry(path)
    assert grid_difference(image.native, read_image([result]).native) is None


@pytest.mark.parametrize(("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (1 | 8, 1000), (3 | 24, 0.001)])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (1, 1), (0, 0)])
def test_spacing_and_position_are_in_mm(tmp_path: Path, unit: int, mm: float, codes: tuple[int, int]) -> None:
    path = made(tmp_path / "a.nii.gz", qform=AFFINE, sform=AFFINE, codes=codes, unit=unit)
    header = read_header(path)
    np.testing.assert_allclose(header.grid.spacing, np.array([2, 3, 4]) * mm, rtol=1e-6)
    expected = AFFINE if any(codes) else np.diag([2, 3, 4, 1])
    np.testing.assert_allclose(header.affine[:3], expected[:3] * mm, rtol=1e-6, atol=1e-6 * mm)


def test_a_unit_that_is_not_defined_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unit of length has the code 5"):
        read_header(made(tmp_path / "a.nii.gz", sform=AFFINE, codes=(0, 1), unit=5))


def test_nifti_2_stays_nifti_2(tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii.gz", sform=AFFINE / 3, codes=(0, 2), kind=nib.Nifti2Image)
    image = read_image([path])
    write_volume(tmp_path / "b.nii.gz", to_native(image.array[0], image.native), image.native)
    after = nib.load(tmp_path / "b.nii.gz")
    assert type(after) is nib.Nifti2Image
    np.testing.assert_array_equal(after.affine, nib.load(path).affine)


def test_files_whose_forms_differ_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    agreeing = made(tmp_path / "a.nii", qform=AFFINE, sform=AFFINE + 1e-5, codes=(1, 1))
    alone = made(tmp_path / "b.nii", qform=MOVED, sform=AFFINE, codes=(0, 1))
    (tmp_path / "c.nii").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        FormsApart.of([agreeing, alone, tmp_path / "c.nii", tmp_path / "absent.nii", tmp_path / "d.png"]).warn()
    assert not caplog.messages

    apart = made(tmp_path / "e.nii.gz", qform=MOVED, sform=AFFINE, codes=(1, 1), unit=3)
    sheared = made(tmp_path / "f.nii.gz", qform=AFFINE, sform=AFFINE @ np.diag([1, 1, 1.04, 1]), codes=(1, 1))
    with caplog.at_level(logging.WARNING):
        FormsApart.of([agreeing, alone, apart, sheared]).warn()
    (message,) = caplog.messages
    assert "up to 0.48 mm apart in 2 of 4 NIfTI file(s); the sform is used: e.nii.gz, f.nii.gz" in message
    np.testing.assert_allclose(read_header(apart).apart, np.sqrt(10**2 + 5**2 + 3**2) / 1000, rtol=1e-5)


def test_an_sform_that_contradicts_pixdim_counts_as_apart(tmp_path: Path) -> None:
    """ITK then takes the spacing from pixdim."""
    path = made(tmp_path / "a.nii", sform=AFFINE @ np.diag([0.5, 1, 1, 1]), codes=(0, 1))
    assert itk_geometry(path)[1] == (2, 3, 4)
    assert read_header(path).grid.spacing == (1, 3, 4)
    np.testing.assert_allclose(read_header(path).apart, 5)


def test_a_form_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "a.nii", qform=AFFINE, sform=AFFINE, codes=(1, 1))
    content = bytearray(path.read_bytes())
    content[256:260] = np.float32(np.nan).tobytes()  # quatern_b
    path.write_bytes(content)
    with pytest.raises(UserError, match="its qform is not finite"):
        read_header(path)
    content[252:254] = bytes(2)  # qform_code: the form is not in use
    path.write_bytes(content)
    image = read_image([path])
    write_volume(tmp_path / "b.nii", to_native(image.array[0], image.native), image.native)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii").affine, nib.load(path).affine)
