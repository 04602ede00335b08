"""Label maps lie where the image lies, however the file stores it: through real files, resampling and cropping."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made_plans import data_plan, model_plan, plan, threshold

from seg_transfer.data.dataset import find_images
from seg_transfer.inference.folder import predict_folder
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.data_plan import Channel, Label, Normalization
from seg_transfer.planning.plan import Plan

SHAPE, SPACING = (26, 22, 15), (1.0, 1.3, 2.9)
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))
MM = {"mm": 1, "meter": 1000, "micron": 0.001}
PLACING = ("xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d")
PLACING += ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")
CORNER = np.array([-31.0, 12.5, 40.25])
OBLIQUE = np.array([[0.98, -0.17, 0.10], [0.18, 0.98, -0.07], [-0.086, 0.087, 0.9925]])


def stub_plan() -> Plan:
    data = data_plan(
        channels=(Channel(name="T1", normalization=Normalization(kind="none")),),
        labels=(Label(name="background", value=0), Label(name="a", value=3), Label(name="b", value=7)),
        axes=(2, 1, 0),
        spacing=(2.0, 0.9, 0.8),
        crop_nonzero=True,
    )
    return plan(data, model_plan("3d", (16, 24, 24)), tta_axes=(2,))


def canonical_volume() -> np.ndarray:
    """Smooth, without symmetry, with a border of zeros of a different width on each side."""
    x, y, z = (np.arange(size) + 0.5 for size in SHAPE)
    x, y, z = np.meshgrid(x, y, z, indexing="ij")
    radius = np.sqrt(((x - 15) / 8) ** 2 + ((y - 9) / 6) ** 2 + ((z - 6) / 4.5) ** 2)
    volume = np.clip(2.2 - 1.4 * radius, 0, None)
    volume += 0.9 * ((x > 4) & (x < 9) & (y > 12) & (y < 19) & (z > 8) & (z < 13))
    return volume.astype(np.float32)


def stored(
    volume: np.ndarray, affine: np.ndarray, axes: tuple[int, ...], signs: tuple[int, ...], *, unit: str, forms: str
) -> nib.Nifti1Image:
    """The same volume in another order of its voxels, with the header that says so.

    Args:
        volume: ``(x, y, z)``.
        affine: Of the volume, in mm.
        axes: Axis of the file for each axis of the volume.
        signs: Direction of each axis.
        unit: Unit of length in the header, in which all its numbers are.
        forms: Which of qform and sform the header has.
    """
    turned = nib.orientations.apply_orientation(volume, np.array(list(zip(axes, signs, strict=True))))
    change = nib.orientations.inv_ornt_aff(np.array(list(zip(axes, signs, strict=True))), volume.shape)
    placed = np.diag([1 / MM[unit]] * 3 + [1]) @ affine @ change
    image = nib.Nifti1Image(turned, None)
    image.header.set_xyzt_units(unit, "sec")
    image.set_qform(placed, code=1 if "q" in forms else 0)
    image.set_sform(placed if "s" in forms else None, code=1 if "s" in forms else 0)
    return image


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("rotation", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_every_orientation_unit_and_form_gives_the_same_labels_in_the_world(
    rotation: np.ndarray, tmp_path: Path
) -> None:
    """48 orientations; the nine ways to say where the volume lies take turns."""
    rotation = np.linalg.qr(rotation)[0]
    rotation = rotation @ np.diag(np.sign(np.diag(rotation)))
    affine = nib.affines.from_matvec(rotation @ np.diag(SPACING), CORNER)
    volume = canonical_volume()
    images, output = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    ways = itertools.cycle(itertools.product(MM, ("q", "s", "qs")))
    for number, ((axes, signs), (unit, forms)) in enumerate(zip(ORIENTATIONS, ways, strict=False)):
        nib.save(stored(volume, affine, axes, signs, unit=unit, forms=forms), images / f"case{number:02}.nii.gz")

    predictor = Predictor(stub_plan(), [threshold], torch.device("cpu"))
    assert predict_folder(predictor, find_images(images, 1), Outputs(output)) == {}

    expected = np.select([volume > 1.5, volume > 0.5], [7, 3], 0)
    first = in_itk = None
    for number in range(len(ORIENTATIONS)):
        files = [folder / f"case{number:02}.nii.gz" for folder in (images, output)]
        image, label = map(nib.load, files)
        assert label.shape == image.shape
        assert label.get_data_dtype() == np.uint8
        for field in PLACING:
            np.testing.assert_array_equal(label.header[field], image.header[field], err_msg=field)
        np.testing.assert_array_equal(label.affine, image.affine)
        canonical = nib.as_closest_canonical(label)
        to_mm = np.diag([MM[label.header.get_xyzt_units()[0]]] * 3 + [1])
        np.testing.assert_allclose(to_mm @ canonical.affine, affine, atol=1e-4)
        found = np.asarray(canonical.dataobj)
        first = found if first is None else first
        np.testing.assert_array_equal(found, first)

        image, label = (sitk.ReadImage(str(file)) for file in files)
        for name in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(label, name)() == getattr(image, name)()
        turned = sitk.DICOMOrient(label, "LPS")
        in_itk = in_itk or turned
        np.testing.assert_array_equal(sitk.GetArrayFromImage(turned), sitk.GetArrayFromImage(in_itk))
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(turned, name)(), getattr(in_itk, name)(), atol=1e-4)
    assert set(np.unique(first)) == {0, 3, 7}
    for value in (3, 7):
        overlap = 2 * ((first == value) & (expected == value)).sum()
        assert overlap / ((first == value).sum() + (expected == value).sum()) > 0.9
    np.testing.assert_array_equal(sitk.GetArrayFromImage(in_itk).transpose(2, 1, 0)[::-1, ::-1], first)
