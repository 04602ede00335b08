"""Objects that are told apart: their description, cores and borders, numbering and panoptic quality."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_discs import describe, discs, write_discs
from made_plans import data_plan, model_plan, plan
from PIL import Image
from scipy import ndimage

from seg_transfer.data.checks import read_checked
from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.description import label_scheme, object_regions
from seg_transfer.data.image import read_image
from seg_transfer.data.instances import core_and_border
from seg_transfer.errors import UserError
from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.evaluation.panoptic import panoptic_quality
from seg_transfer.inference.objects import number_objects
from seg_transfer.planning.data_plan import Channel, Label, Normalization
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.model_file import NOTHING
from seg_transfer.portable.model import OnnxModel
from seg_transfer.workflow.dicom_seg import check_named

CELL = {"background": 0, "cell": 1}


def row(*runs: tuple[int, int]) -> np.ndarray:
    """An array ``(1, n)`` of runs of (number, length)."""
    return np.concatenate([np.full(length, number) for number, length in runs])[np.newaxis]


def test_dataset_json_names_the_label_whose_objects_are_numbered(tmp_path: Path) -> None:
    dataset = find_dataset(write_discs(tmp_path, range(1)))
    assert dataset.labels == (("background", 0), ("disc core", 1), ("disc border", 2))
    assert dataset.regions == object_regions("disc") and dataset.instances


@pytest.mark.parametrize(
    ("labels", "entry", "message"),
    [
        (CELL, ["nucleus"], r"instances is \['nucleus'\], and the label is cell"),
        (CELL, "cell", "instances is 'cell', and the label is cell"),
        (CELL, {}, r"instances is \{\}, and the label is cell"),
        (CELL | {"nucleus": 2}, ["cell"], "of one label can be told apart, but the labels are cell, nucleus"),
        ({"background": 0, "cell": [1, 2]}, ["cell"], "of one label can be told apart"),
        (CELL | {"ignore": 9}, ["cell"], "beside an ignore label"),
    ],
)
def test_what_cannot_be_told_apart_is_one_error(labels: dict, entry: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        label_scheme({"labels": labels, "instances": entry}, Path("dataset.json"))


def test_a_plan_of_objects_has_their_cores_as_second_output_and_its_own_hash() -> None:
    labels = tuple(Label(name=name, value=value) for value, name in enumerate(("background", "c core", "c border")))
    made = data_plan(labels=labels, regions=object_regions("c"))
    assert made.instances and made.outputs == ("c", "c core")
    assert (made.scored, made.written_names) == ({"c": (1, 2)}, {"c": 1})
    plain = tuple(region.model_copy(update={"numbered": False}) for region in made.regions)
    assert part_hash(made) != part_hash(data_plan(labels=labels, regions=plain))
    with pytest.raises(ValueError, match="a numbered region is the first of two"):
        data_plan(labels=labels, regions=object_regions("c")[:1])


def test_cores_of_touching_objects_do_not_touch_and_every_object_has_one() -> None:
    for seed in range(3):
        numbers = discs(seed)[1]
        classes = core_and_border(numbers, (1, 1))
        np.testing.assert_array_equal(classes != 0, numbers != 0)
        cores, count = ndimage.label(classes == 1, np.ones((3, 3)))
        assert count == numbers.max() > ndimage.label(numbers)[1]
        assert all(len(set(numbers[cores == core])) == 1 for core in range(1, count + 1))


def test_a_core_is_deeper_than_a_third_of_the_deepest_voxel() -> None:
    # depths of the first object are 3 2 1 at the image's edge, of the second 1 2 2 1, of the third 1
    numbers = row((7, 3), (2, 4), (0, 1), (9, 1), (0, 1))
    assert core_and_border(numbers, (1, 1)).tolist() == [[1, 1, 2, 1, 1, 1, 1, 0, 1, 0]]
    assert core_and_border(row((0, 1), (5, 7), (0, 1)), (1, 1)).tolist() == [[0, 2, 1, 1, 1, 1, 1, 2, 0]]
    assert core_and_border(np.full((2, 2), 3), (1, 1)).tolist() == [[1, 1], [1, 1]]
    assert not core_and_border(np.zeros((2, 2), int), (1, 1)).any()


def test_distances_are_in_the_units_of_the_spacing() -> None:
    ball = np.zeros((9, 9, 5), np.uint16)
    ball[1:-1, 1:-1, 1:-1] = 40000
    thick, thin = (core_and_border(ball, (1, 1, step)) == 1 for step in (3, 0.1))
    assert thick[4, 4].sum() == 3 and thick[:, 4, 2].sum() == 5
    assert thin[:, 4, 2].sum() == 7 and thin[4, 4].sum() == 3


def test_negative_numbers_are_an_error() -> None:
    with pytest.raises(UserError, match="the object number -2 is negative"):
        core_and_border(row((0, 1), (-2, 3)), (1, 1))


def test_objects_come_back_from_their_cores_and_borders() -> None:
    for seed in range(3):
        numbers = discs(seed)[1]
        found = number_objects(core_and_border(numbers, (1, 1)), (1, 1))
        assert found.dtype == np.uint16
        quality = panoptic_quality(found, numbers)
        assert quality.recognition == 1 and quality.segmentation > 0.9
        np.testing.assert_array_equal(found != 0, numbers != 0)


def test_a_part_without_a_core_is_no_object() -> None:
    classes = row((0, 1), (2, 2), (0, 1), (2, 1), (1, 1), (2, 3), (1, 1), (0, 1), (1, 1))
    assert number_objects(classes, (1, 1)).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 3]]


def test_objects_of_volumes_and_more_than_65535_of_them_are_numbered() -> None:
    volume = np.zeros((82, 82, 82), np.uint8)
    volume[::2, ::2, ::2] = 1
    found = number_objects(volume, (1, 1, 1))
    assert found.dtype == np.uint32 and found.max() == 41**3 == len(np.unique(found)) - 1


def test_panoptic_quality_by_hand() -> None:
    reference = row((0, 1), (1, 4), (2, 4), (0, 3))
    # 1: IoU 3/4, so that they match; 2: 2/4, which is not above 0.5; and a false positive
    prediction = row((0, 1), (0, 1), (8, 3), (9, 2), (0, 3), (3, 2))
    quality = panoptic_quality(prediction, reference)
    assert quality.segmentation == pytest.approx(3 / 4)
    assert quality.recognition == pytest.approx(1 / (1 + 2 / 2 + 1 / 2))
    assert quality.quality == pytest.approx(3 / 10)
    assert panoptic_quality(reference * 1000, reference) == (1, 1)
    assert panoptic_quality(reference > 0, reference).quality == 0  # both as one object: IoU 1/2 with each


def test_panoptic_quality_without_objects() -> None:
    nothing, something = row((0, 3)), row((0, 1), (1, 2))
    assert math.isnan(panoptic_quality(nothing, nothing).quality)
    for pair in ((nothing, something), (something, nothing)):
        quality = panoptic_quality(*pair)
        assert (quality.quality, quality.recognition) == (0, 0) and math.isnan(quality.segmentation)
    assert panoptic_quality(row((4, 3)), row((1, 3))) == (1, 1)


def test_scores_of_objects_have_the_dice_of_all_of_them_together() -> None:
    reference, prediction = row((0, 1), (1, 4), (2, 4), (0, 3)), row((0, 2), (3, 7), (0, 3))
    score = score_case(prediction[..., None], reference[..., None], [(1, 2)], (1, 1, 1), unit="pixel", instances=True)
    found = score[1, 2].metrics
    assert found["dice"] == pytest.approx(14 / 15) and score[1, 2].reference_voxels == 8
    assert (found["rq"], found["sq"]) == (2 / 3, 4 / 7) and found["pq"] == pytest.approx(8 / 21)
    assert not {"pq", "sq", "rq"} & score_case(prediction, reference, [1], (1, 1))[1].metrics.keys()


def test_label_files_that_hold_no_object_numbers_are_problems_of_their_case(tmp_path: Path) -> None:
    import nibabel

    for name, values in (("half", 0.5), ("negative", -1.0), ("good", 70000.0)):
        for kind, array in (("imagesTr", np.ones((4, 4, 3), np.float32)), ("labelsTr", np.full((4, 4, 3), values))):
            (tmp_path / kind).mkdir(exist_ok=True)
            ending = "_0000.nii.gz" if kind == "imagesTr" else ".nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / kind / f"{name}{ending}")
    describe(tmp_path, file_ending=".nii.gz")
    dataset = find_dataset(tmp_path)
    problems = {each.case: each.what for case in dataset.cases for each in read_checked(case, dataset).problems}
    assert problems.keys() == {"half", "negative"}
    assert "whole numbers" in problems["half"] and "-1 is negative" in problems["negative"]


def test_dataset_json_survives_its_way_to_disk(tmp_path: Path) -> None:
    dataset = find_dataset(write_discs(tmp_path / "data", range(1)))
    dataset.save(tmp_path / "dataset.json")
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert [region["numbered"] for region in content["regions"]] == [True, False]
    assert type(dataset).load(tmp_path / "dataset.json") == dataset


def test_segtl_infer_numbers_objects_as_predict_does(tmp_path: Path) -> None:
    """Its network is replaced by the classes that the image shows."""
    numbers = discs(0)[1]
    classes = core_and_border(numbers, (1, 1))
    Image.fromarray(classes).save(tmp_path / "a.png")
    labels = tuple(Label(name=name, value=value) for value, name in enumerate(("background", "c core", "c border")))
    data = data_plan(
        dimension=2,
        unit="pixel",
        spacing=(1.0, 1.0, 1.0),
        channels=(Channel(name="grey", normalization=Normalization(kind="none")),),
        labels=labels,
        regions=object_regions("c"),
    )
    model = object.__new__(OnnxModel)
    planned = plan(data, model_plan("2d", (1, *reversed(numbers.shape))))
    model.header = SimpleNamespace(plan=planned, postprocessing=NOTHING)  # type: ignore[assignment]
    model._probabilities = lambda windows: np.concatenate([windows > 0.5, abs(windows - 1) < 0.5], axis=1)  # type: ignore[method-assign]
    found, _ = model.labels(read_image([tmp_path / "a.png"]))
    np.testing.assert_array_equal(found, number_objects(classes.T[..., np.newaxis], (1, 1, 1)))
    assert panoptic_quality(found[..., 0].T, numbers).recognition == 1


def test_a_series_gets_no_label_names_from_a_model_of_objects() -> None:
    labels = tuple(Label(name=name, value=value) for value, name in enumerate(("background", "c core", "c border")))
    check_named(data_plan())
    with pytest.raises(UserError, match="numbers the objects of c, and numbers have no names"):
        check_named(data_plan(labels=labels, regions=object_regions("c")))
