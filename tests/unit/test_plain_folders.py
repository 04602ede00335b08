"""Images beside label maps, in two folders or in one, as public data sets have them."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Pillow

from seg_transfer.data.case_folders import FileNames
from seg_transfer.data.dataset import Dataset, find_dataset, find_images
from seg_transfer.data.formats import read_header, write_volume
from seg_transfer.data.image import read_image, read_label
from seg_transfer.errors import UserError
from seg_transfer.evaluation.score_files import evaluate_folders
from seg_transfer.inference.outputs import label_file

DISC = np.array(((0, 1, 1), (2, 0, 1)), np.uint8)


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(np.stack([DISC] * 3, axis=-1), np.eye(4)), path)
    else:
        Pillow.fromarray(DISC).save(path)


def made(root: Path, image: str, label: str) -> Dataset:
    for number in (8, 9, 10):
        put(root / image.format(number))
        put(root / label.format(number))
    return find_dataset(root)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("img/img{:04}.nii.gz", "label/label{:04}.nii.gz"),
        ("images/{}_training.png", "1st_manual/{}_manual1.gif"),
        ("ISIC_Input/ISIC_{:04}.png", "ISIC_GroundTruth/ISIC_{:04}_segmentation.png"),
        ("train/car_{}.png", "train_masks/car_{}_mask.gif"),
        ("volume-{}.nii.gz", "segmentation-{}.nii.gz"),
        ("Case{:02}.nii.gz", "Case{:02}_segmentation.nii.gz"),
        ("train_{}.bmp", "train_{}_anno.bmp"),
        ("same/{}.png", "masks/{}.png"),
    ],
)
def test_label_maps_belong_to_their_images(tmp_path: Path, image: str, label: str) -> None:
    found = made(tmp_path, image, label)
    assert found.layout == "folders" and not found.unused
    assert {case.id: (case.images, case.label) for case in found.cases} == {
        Path(image.format(number)).name.split(".")[0]: (
            (tmp_path / image.format(number),),
            tmp_path / label.format(number),
        )
        for number in (8, 9, 10)
    }
    assert found.labels == (("background", 0), ("label_1", 1), ("label_2", 2))


def test_how_they_were_paired_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        made(tmp_path, "img/img{}.png", "label/label{}.png")
    assert "such as label10.png to img10.png" in caplog.text


def test_channels_of_a_case_share_its_label_map(tmp_path: Path) -> None:
    for number in (8, 9):
        for channel in range(2):
            put(tmp_path / f"imagesTr/brain_{number}_{channel:04}.nii.gz")
        put(tmp_path / f"labelsTr/brain_{number}_seg.nii.gz")
    found = find_dataset(tmp_path)
    assert [(case.id, len(case.images)) for case in found.cases] == [("brain_8", 2), ("brain_9", 2)]
    assert found.cases[0].label == tmp_path / "labelsTr/brain_8_seg.nii.gz"


def test_an_image_without_a_label_map_is_a_case_that_lacks_it(tmp_path: Path) -> None:
    put(tmp_path / "img/img0011.nii.gz")
    found = made(tmp_path, "img/img{:04}.nii.gz", "label/label{:04}.nii.gz")
    (lacking,) = [case for case in found.cases if case.label is None or not case.label.exists()]
    assert lacking.id == "img0011" and lacking.label == tmp_path / "label/img0011.nii.gz"


def test_a_label_map_without_an_image_leaves_nothing_paired(tmp_path: Path) -> None:
    put(tmp_path / "label/label0011.nii.gz")
    with pytest.raises(UserError, match="no label has the name of an image"):
        made(tmp_path, "img/img{:04}.nii.gz", "label/label{:04}.nii.gz")


def test_folders_are_named_by_the_user(tmp_path: Path) -> None:
    for name in ("images", "labels_first", "labels_second", "other"):
        put(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=r"folder of images; folders here: .*labels_first"):
        find_dataset(tmp_path)
    names = FileNames(("images",), "labels_second")
    assert find_dataset(tmp_path, names=names).cases[0].label == tmp_path / "labels_second/a.png"
    names = FileNames(("images",), "other")
    assert find_dataset(tmp_path, names=names).cases[0].label == tmp_path / "other/a.png"
    for given, said in (
        (FileNames(("images",), "labels_third"), r"--label-name: no folder is named 'labels_third'"),
        (FileNames(("other", "images"), "labels_first"), "--image-name: channels lie in one folder"),
        (FileNames(("labels_first",), "labels_first"), r"--image-name: no folder is named 'labels_first'"),
    ):
        with pytest.raises(UserError, match=said):
            find_dataset(tmp_path, names=given)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    put(tmp_path / "flat/a.png")
    with pytest.raises(UserError, match=r"files here have names such as a\.png"):
        find_dataset(tmp_path / "flat")
    for part in ("train", "val"):
        for name in ("a", "b"):
            put(tmp_path / "parts" / part / f"images/{name}.png")
            put(tmp_path / "parts" / part / f"labels/{name}.png")
    with pytest.raises(UserError, match=r"folders here: train/, val/(.|\n)*give a data set in it: .*train"):
        find_dataset(tmp_path / "parts")
    put(tmp_path / "alone/images/a.png")
    with pytest.raises(UserError, match=r"folder of labels(.|\n)*--label-name"):
        find_dataset(tmp_path / "alone")


def test_gif_is_read_and_not_written(tmp_path: Path) -> None:
    put(tmp_path / "a.gif")
    assert read_label(tmp_path / "a.gif").array[0, ..., 0].T.tolist() == DISC.tolist()
    (case,) = find_images(tmp_path / "a.gif", 1)
    assert label_file(case, tmp_path / "out") == tmp_path / "out/a.png"
    with pytest.raises(UserError, match=r"\.gif is only read(.|\n)*write \.png"):
        write_volume(tmp_path / "b.gif", DISC.T[..., np.newaxis], read_header(tmp_path / "a.gif").grid)
    pages = [Pillow.fromarray(DISC), Pillow.fromarray(2 * DISC)]
    pages[0].save(tmp_path / "film.gif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="several pages"):
        read_image([tmp_path / "film.gif"])


def test_predictions_are_scored_against_the_label_maps_of_such_a_data_set(tmp_path: Path) -> None:
    found = made(tmp_path / "data", "img/img{:04}.nii.gz", "label/label{:04}.nii.gz")
    for case in found.cases[:2]:
        put(tmp_path / "out" / f"{case.id}.nii.gz")
    scores = evaluate_folders(tmp_path / "out", tmp_path / "data/label", only_predicted=True)
    assert set(scores.cases) == {"img0008", "img0009"} and not scores.failures
    assert all(score.metrics["dice"] == 1 for labels in scores.cases.values() for score in labels.values())
    scores = evaluate_folders(tmp_path / "out", tmp_path / "data/label")
    assert set(scores.cases) == {"img0008", "img0009"} and set(scores.failures) == {"label0010"}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("volume-{}.nii.gz", "segmentation-{}.nii.gz"),
        ("a_{}_0000.nii.gz", "a_{}_seg.nii.gz"),
        ("{}.png", "{}_mask.png"),
    ],
)
def test_one_folder_of_both_is_predicted_and_scored_against(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, image: str, label: str
) -> None:
    found = made(tmp_path / "data", image, label)
    cases = find_images(tmp_path / "data", 1)
    assert [case.images for case in cases] == [case.images for case in found.cases]
    assert "3 label maps beside their images are no images" in caplog.text
    for case in cases:
        put(label_file(case, tmp_path / "out"))
    scores = evaluate_folders(tmp_path / "out", tmp_path / "data")
    assert set(scores.cases) == {case.id for case in cases} and not scores.failures


def test_images_named_as_label_maps_are_predicted_where_they_belong_to_no_others(tmp_path: Path) -> None:
    for name in ("mask_a.png", "mask_b.png", "other.png"):
        put(tmp_path / name)
    assert [case.id for case in find_images(tmp_path, 1)] == ["mask_a", "mask_b", "other"]
