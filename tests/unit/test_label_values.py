"""Label values of any size: atlas numbers, negative ones, and those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Pillow

from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.image import read_label
from seg_transfer.data.label_values import to_classes
from seg_transfer.errors import UserError
from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.evaluation.score_files import evaluate_folders
from seg_transfer.planning.examine import examine

ATLAS = 614454277
TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


def label_file(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), dtype=array.dtype), path)
    return path


def dataset(root: Path, labels: dict[str, object], array: np.ndarray, *, ending: str = ".nii.gz") -> Path:
    label_file(root / "imagesTr" / "a_0000.nii.gz", np.arange(array.size, dtype=np.float32).reshape(array.shape))
    label_file(root / "labelsTr" / "a.nii.gz", array)
    description = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 1, "file_ending": ending}
    (root / "dataset.json").write_text(json.dumps(description))
    return root


@pytest.mark.parametrize("kind", TYPES)
def test_values_become_classes_in_any_type(kind: type) -> None:
    limits = np.iinfo(kind)
    values = [0, *{value for value in (5, -1, 300, ATLAS, limits.min, limits.max, -(2**63)) if value}]
    values = [value for value in values if value <= 2**63 - 1]
    fitting = [value for value in values if limits.min <= value <= limits.max]
    array = np.array([*fitting, *reversed(fitting)], kind)
    classes = to_classes(array.reshape(2, -1), values)
    assert classes.dtype == np.uint8
    assert [values[index] for index in classes.reshape(-1)] == [*fitting, *reversed(fitting)]


@pytest.mark.parametrize(
    ("value", "kind"),
    [(2, np.uint8), (-2, np.int16), (ATLAS + 1, np.int32), (2**32 - 1, np.uint32), (2**64 - 1, np.uint64)],
)
def test_another_value_is_named(value: int, kind: type) -> None:
    """Also one that is next to a declared one, or the same in another type: 2^32 - 1 is -1 as int32."""
    array = np.array([0, value], kind)
    with pytest.raises(UserError, match=f"label values {value} occur, but only 0, -1, {ATLAS} are declared"):
        to_classes(array, [0, -1, ATLAS])
    with pytest.raises(UserError, match="occur"):
        to_classes(np.array([0, 1], np.uint8), [-1, ATLAS])


def test_many_values() -> None:
    values = [0, *range(-(10**9), 10**9, 10**7)]
    assert to_classes(np.array(values[::-1], np.int64), [*dict.fromkeys(values)]).dtype == np.uint8
    values = [*range(300)]
    assert to_classes(np.array(values), values).tolist() == values


@pytest.mark.parametrize("kind", TYPES[:-1])
def test_scores_of_any_value_are_those_of_a_small_one(kind: type) -> None:
    limits = np.iinfo(kind)
    small = np.zeros((2, 6, 7, 3), np.uint8)
    small[0, 1:4, 2:5], small[1, 2:5, 2:4] = 1, 1
    small[0, 5, 6], small[1, 5, 5:] = 2, 2
    expected = score_case(*small, None, (1, 1, 2))
    for one, two in ((limits.min or 7, limits.max), (limits.max, 1), (limits.max - 1, limits.max)):
        table = np.array([0, one, two], kind)
        found = score_case(*table[small], None, (1, 1, 2))
        assert found == {one: expected[1], two: expected[2]}
        assert score_case(*table[small], [one], (1, 1, 2)) == {one: expected[1]}
        region = score_case(*small, [(1, 2)], (1, 1, 2))[1, 2]
        assert score_case(*table[small], [(one, two)], (1, 1, 2)) == {(one, two): region}


@pytest.mark.parametrize(("value", "kind"), [(-1, np.int16), (-(2**31), np.int32), (2**31, np.uint32), (ATLAS, int)])
def test_evaluation_leaves_no_value_out(tmp_path: Path, value: int, kind: type) -> None:
    array = np.zeros((6, 5, 4), kind)
    array[2:4, 1:3] = value
    for folder in ("predictions", "references"):
        label_file(tmp_path / folder / "a.nii.gz", array)
    scores = evaluate_folders(tmp_path / "predictions", tmp_path / "references")
    assert scores.labels == {f"label {value}": value} and scores.mean_dice == 1


@pytest.mark.parametrize("values", [(-1, ATLAS), (2**31, 2**32 - 1), (-(2**31), 2**31 - 1)])
def test_a_data_set_with_such_values_is_read(tmp_path: Path, values: tuple[int, int]) -> None:
    array = np.zeros((6, 5, 4), np.int64 if max(values) < 2**31 else np.uint32)
    array[1:3, 1:3], array[4, 2:4] = values
    one, two = values
    found = find_dataset(dataset(tmp_path, {"one": one, "background": 0, "two": two}, array))
    assert found.labels == (("background", 0), ("one", one), ("two", two))
    assert examine(found, workers=0).problems == []
    classes = found.classes(read_label(tmp_path / "labelsTr" / "a.nii.gz"))
    assert np.bincount(classes.reshape(-1)).tolist() == [120 - 16 - 8, 16, 8]
    ignored = find_dataset(dataset(tmp_path, {"background": 0, "one": one, "ignore": two}, array))
    assert ignored.ignore == two and examine(ignored, workers=0).problems == []


@pytest.mark.parametrize("value", [2**32, -(2**31) - 1, 2**63, 10**30])
def test_a_value_that_no_file_is_read_with_is_refused(tmp_path: Path, value: int) -> None:
    root = dataset(tmp_path, {"background": 0, "one": value}, np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(UserError, match="label one has the value"):
        find_dataset(root)


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_a_file_with_a_larger_value_is_refused_when_planning(tmp_path: Path, kind: type) -> None:
    array = np.zeros((6, 5, 4), kind)
    array[1] = 2**40
    found = find_dataset(dataset(tmp_path, {"background": 0, "one": 1}, array))
    (problem,) = examine(found, workers=0).problems
    assert "more than 32 bits" in problem.what


def test_floating_point_labels_are_exact_or_refused(tmp_path: Path) -> None:
    array = np.zeros((6, 5, 4))
    array[1] = ATLAS
    assert read_label(label_file(tmp_path / "a.nii.gz", array)).array.max() == ATLAS
    for kind, value in ((np.float32, ATLAS), (np.float64, 2.0**31), (np.float64, -1e300)):
        array[1] = value
        with pytest.raises(UserError, match="too large for floating-point numbers"):
            read_label(label_file(tmp_path / "b.nii.gz", array.astype(kind)))


def test_2d_labels_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    for folder, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (tmp_path / folder).mkdir()
        Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / folder / f"a{suffix}.png")
    for value in (-1, 2**16):
        description = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "one": value}, "file_ending": ".png"}
        (tmp_path / "dataset.json").write_text(json.dumps(description))
        with pytest.raises(UserError, match=f"cannot be written with the values {value}"):
            find_dataset(tmp_path)
