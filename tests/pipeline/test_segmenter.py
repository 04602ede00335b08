"""Images in memory: what is returned is what a program would have read back from files."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work
from scipy.spatial.transform import Rotation

import seg_transfer
from seg_transfer import Segmenter
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.examine import examine
from seg_transfer.planning.rules.training_images import training_images

pytestmark = pytest.mark.usefixtures("one_thread")

TURN = Rotation.from_euler("xyz", (8, -5, 3), degrees=True).as_matrix()
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN @ np.array([[0, -1.2, 0], [-0.9, 0, 0], [0, 0, 2.0]])
OBLIQUE[:3, 3] = (9, -4, 30)
"""Axes that run to the back, to the left and up."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two trained folds in 2.5D, and an image that is oblique."""
    root = tmp_path_factory.mktemp("segmenter")
    data = make_dataset(root / "balls")
    work = make_work(root / "work", data)
    dataset = Dataset.load(work.dataset)
    known = training_images(examine(dataset, workers=0).site.images, 3)
    add_run(work, ball_plan(dataset, "2.5d").model_copy(update={"training_images": known}))
    seg_transfer.export(root / "model.segtl", work=work.path)
    image = nibabel.load(next((data / "imagesTr").iterdir()))
    (root / "images").mkdir()
    oblique = nibabel.Nifti1Image(np.asarray(image.dataobj), OBLIQUE)
    oblique.header.set_xyzt_units("mm", "sec")
    nibabel.save(oblique, root / "images" / "oblique.nii.gz")
    return root


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter.load(folder / "model.segtl", device="cpu")


@pytest.fixture(scope="module")
def predicted(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Label map and probabilities that the command line writes for the oblique image."""
    out = seg_transfer.predict(
        folder / "images", folder / "out", model=folder / "model.segtl", device="cpu", probabilities=True
    )
    labels, likely = (nibabel.load(out / name / "oblique.nii.gz") for name in (".", "probabilities"))
    assert 0 < np.count_nonzero(np.asarray(labels.dataobj)) < np.prod(labels.shape)
    return np.asarray(labels.dataobj), np.moveaxis(np.asarray(likely.dataobj), -1, 0)


def test_an_image_of_nibabel(folder: Path, segmenter: Segmenter, predicted: tuple[np.ndarray, np.ndarray]) -> None:
    image = nibabel.load(folder / "images" / "oblique.nii.gz")
    labels, likely = segmenter(image, probabilities=True)
    assert isinstance(labels, nibabel.Nifti1Image)
    np.testing.assert_array_equal(np.asarray(labels.dataobj), predicted[0])
    np.testing.assert_allclose(np.moveaxis(np.asarray(likely.dataobj), -1, 0), predicted[1], atol=1e-5)
    for made in (labels, likely):
        np.testing.assert_array_equal(made.affine, image.affine)
        assert made.header.get_xyzt_units() == ("mm", "sec")
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(segmenter(image).dataobj), predicted[0])


def test_images_that_no_file_holds(
    folder: Path, segmenter: Segmenter, predicted: tuple[np.ndarray, np.ndarray]
) -> None:
    """Doubles, other byte order, other units and another format of nibabel are the same image."""
    image = nibabel.load(folder / "images" / "oblique.nii.gz")
    values = np.asarray(image.dataobj)
    metres = nibabel.Nifti2Image(values.astype(">f8"), np.diag([1e-3, 1e-3, 1e-3, 1]) @ OBLIQUE)
    metres.header.set_xyzt_units("meter")
    metres.header.set_sform(metres.affine, 1)
    others = {
        "doubles": nibabel.Nifti1Image(values.astype(np.float64), OBLIQUE),
        "metres": metres,
        "mgh": nibabel.MGHImage(values.astype(np.float32), OBLIQUE),
    }
    for name, other in others.items():
        labels = segmenter(other)
        np.testing.assert_array_equal(np.asarray(labels.dataobj), predicted[0], err_msg=name)
        np.testing.assert_allclose(labels.affine, other.affine, atol=1e-5, err_msg=name)


def test_an_image_of_simpleitk(folder: Path, segmenter: Segmenter, predicted: tuple[np.ndarray, np.ndarray]) -> None:
    image = sitk.ReadImage(str(folder / "images" / "oblique.nii.gz"))
    labels, likely = segmenter(image, probabilities=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels).T, predicted[0])
    assert likely.GetNumberOfComponentsPerPixel() == len(segmenter.outputs) == len(predicted[1])
    for made in (labels, likely):
        assert made.IsSameImageGeometryAs(image)
    assert sitk.GetArrayFromImage(sitk.Mask(image, labels)).any()
    assert labels.GetPixelID() == sitk.sitkUInt8


def test_an_array_with_its_affine(folder: Path, segmenter: Segmenter, predicted: tuple[np.ndarray, np.ndarray]) -> None:
    values = np.asarray(nibabel.load(folder / "images" / "oblique.nii.gz").dataobj)
    labels, likely = segmenter(values, affine=OBLIQUE, probabilities=True)
    np.testing.assert_array_equal(labels, predicted[0])
    np.testing.assert_allclose(likely, predicted[1], atol=1e-5)
    same = seg_transfer.predict(values[np.newaxis], affine=OBLIQUE, work=folder / "work", device="cpu")
    np.testing.assert_array_equal(same, predicted[0])


def test_how_sure_it_is(folder: Path, segmenter: Segmenter) -> None:
    """The entropy map and the confidence of every kind of image are those that the command writes."""
    file, out = folder / "images" / "oblique.nii.gz", folder / "sure"
    seg_transfer.predict(file, out, model=folder / "model.segtl", device="cpu", uncertainty=True)
    expected = np.asarray(nibabel.load(out / "uncertainty" / file.name).dataobj)
    (entry,) = json.loads((out / "predictions.json").read_text())["label_maps"].values()
    image = nibabel.load(file)
    labels, entropy, confidence = segmenter(image, uncertainty=True)
    assert labels.shape == entropy.shape == expected.shape and 0 < expected.max() <= 100
    np.testing.assert_array_equal(np.asarray(entropy.dataobj), expected)
    assert confidence == pytest.approx(entry["confidence"]) and 0 < confidence <= 1
    _, likely, of_array, again = segmenter(
        np.asarray(image.dataobj), affine=OBLIQUE, probabilities=True, uncertainty=True
    )
    assert likely.shape == (3, *expected.shape) and again == pytest.approx(confidence, abs=1e-5)
    np.testing.assert_allclose(of_array.astype(int), expected, atol=1)
    _, of_itk, same = segmenter(sitk.ReadImage(str(file)), uncertainty=True)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(of_itk).T, expected)
    assert same == confidence


def test_what_the_model_knows(segmenter: Segmenter) -> None:
    assert segmenter.labels == {"background": 0, "ball": 1, "core": 4}
    assert (segmenter.channels, segmenter.outputs) == (("MRI",), ("background", "ball", "core"))


def test_an_unusual_image_is_warned_of(folder: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    image = nibabel.load(folder / "images" / "oblique.nii.gz")
    with caplog.at_level(logging.WARNING, "seg_transfer"):
        segmenter(nibabel.Nifti1Image(np.asarray(image.dataobj) * 1000, OBLIQUE))
    assert "the image is unlike the training images" in caplog.text


def volume(shape: tuple[int, ...] = (8, 8, 8), dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("image", "geometry", "message"),
    [
        (volume(), {"affine": np.eye(3)}, "4 x 4"),
        (volume(), {"affine": "RAS"}, "4 x 4"),
        (volume(), {"affine": np.zeros((4, 4))}, "4 x 4"),
        (volume(), {"affine": np.diag([1, 1, 0, 1])}, "singular"),
        (volume(), {"affine": np.diag([1, np.nan, 1, 1])}, "singular"),
        (volume(), {"affine": np.diag([1e9, 1, 1, 1])}, "spacing"),
        (volume(), {"affine": np.eye(4), "spacing": (1, 1, 1)}, "not both"),
        (volume(), {}, "needs its spacing"),
        (volume((2, 8, 8, 8)), {"affine": np.eye(4)}, "2 channel"),
        (volume() * np.nan, {"affine": np.eye(4)}, "not finite"),
        (nibabel.Nifti1Image(volume(), np.eye(4)), {"spacing": (1, 1, 1)}, "of its own"),
        (nibabel.Nifti1Image(volume() * np.inf, np.eye(4)), {}, "not finite"),
        (nibabel.Nifti1Image(volume(dtype="complex64"), np.eye(4)), {}, "complex64"),
        (nibabel.Nifti1Image(volume((8, 8, 8, 3)), np.eye(4)), {}, "3 channel"),
        (nibabel.Nifti1Image(volume((8, 8, 8, 2, 3)), np.eye(4)), {}, "5D"),
        (nibabel.Nifti1Image(volume((0, 8, 8)), np.eye(4)), {}, "no voxels"),
        (nibabel.Nifti1Image(volume(), np.diag([1e9, 1, 1, 1])), {}, "spacing"),
        (sitk.Image([8, 8, 8], sitk.sitkComplexFloat32), {}, "complex64"),
        (sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 3), {}, "3 channel"),
        (sitk.Image([8, 8, 8, 2], sitk.sitkFloat32), {}, "2 channel"),
        ("ct.nii.gz", {}, "not str"),
        (object(), {}, "not object"),
        (None, {}, "not NoneType"),
    ],
)
def test_what_cannot_be_segmented(segmenter: Segmenter, image: object, geometry: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        segmenter(image, **geometry)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        Segmenter.load(tmp_path / "missing.segtl")
    with pytest.raises(UserError):
        Segmenter.load(work=tmp_path)
    with pytest.raises(TypeError, match=r"Segmenter\.load"):
        Segmenter.load(tmp_path / "missing.segtl", tta=False)
