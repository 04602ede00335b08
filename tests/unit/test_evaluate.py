import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image as Pillow
from rich.console import Console

import seg_transfer
from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError
from seg_transfer.evaluation.metrics import METRICS, Metric
from seg_transfer.evaluation.report import cases_table, save_csv, summary_table
from seg_transfer.evaluation.score_files import evaluate_folders
from seg_transfer.evaluation.scores import Figures, Scores

SHAPE = (12, 10, 6)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
LABELS = {"background": 0, "liver": 1, "spleen": 2}


def label_map(*, shift: int = 0, spleen: bool = True) -> np.ndarray:
    """Liver of 4 x 4 x 2 voxels, spleen of 2 x 2 x 2."""
    array = np.zeros(SHAPE, np.uint8)
    array[1 + shift : 5 + shift, 2:6, 1:3] = 1
    if spleen:
        array[8:10, 6:8, 3:5] = 2
    return array


def write(path, array, affine=AFFINE):
    write_volume(path, array, Grid(array.shape, affine))


@pytest.fixture
def folders(tmp_path):
    """Case a is moved by one voxel, b has lost its spleen, c has neither spleen."""
    for case, predicted, true in (
        ("a", label_map(shift=1), label_map()),
        ("b", label_map(spleen=False), label_map()),
        ("c", label_map(spleen=False), label_map(spleen=False)),
    ):
        write(tmp_path / "predictions" / f"{case}.nii.gz", predicted)
        write(tmp_path / "reference" / f"{case}.nii.gz", true)
    return tmp_path / "predictions", tmp_path / "reference"


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def test_scores_per_case_and_label(folders):
    scores = evaluate_folders(*folders, labels=LABELS)
    assert scores.labels == {"liver": 1, "spleen": 2}
    assert list(scores.cases) == ["a", "b", "c"]
    moved = scores.cases["a"]["liver"]
    assert moved.metrics["dice"] == pytest.approx(0.75)
    assert moved.metrics["hd95"] == 2
    assert scores.cases["b"]["liver"].metrics["dice"] == 1
    spleen = scores.summary["spleen"]
    dice = spleen.metrics["dice"]
    assert (dice.mean, dice.median, dice.std, dice.cases) == (0.5, 0.5, 0.5, 2)
    assert (spleen.metrics["hd95"].mean, spleen.metrics["hd95"].cases) == (0, 1)
    assert (spleen.both_empty, spleen.prediction_empty, spleen.reference_empty) == (1, 1, 0)
    assert scores.mean_dice == pytest.approx((2.75 / 3 + 0.5) / 2)
    assert scores.case_dice("c") == 1
    assert scores.failures == {}


def test_labels_are_inferred_from_all_cases(folders):
    predictions, reference = folders
    write(reference / "c.nii.gz", np.where(label_map(spleen=False) == 1, 7, 0).astype(np.uint8))
    scores = evaluate_folders(predictions, reference)
    assert scores.labels == {"label 1": 1, "label 2": 2, "label 7": 7}
    assert scores.cases["a"]["label 7"].empty == "both"
    assert scores.cases["c"]["label 7"].empty == "prediction"
    assert scores.cases["c"]["label 1"].empty == "reference"


def test_regions_and_the_ignore_label(folders, tmp_path):
    predictions, reference = folders
    unknown = label_map()
    unknown[:, :, 3:] = 9  # the spleen of b is not annotated, nor is anything else there
    write(reference / "b.nii.gz", unknown)
    labels = {"organs": (1, 2), "spleen": (2,)}
    scores = evaluate_folders(predictions, reference, labels=labels, ignore=9, workers=1)
    assert scores.labels == {"organs": (1, 2), "spleen": 2}
    assert scores.cases["a"]["organs"].metrics["dice"] == pytest.approx(2 * (24 + 8) / (40 + 40))
    assert scores.cases["a"]["spleen"].metrics["dice"] == 1
    assert scores.cases["b"]["organs"].metrics["dice"] == 1
    assert scores.cases["b"]["spleen"].empty == "both"
    by_number = seg_transfer.evaluate(predictions, reference, ignore=9, workers=0)
    assert "label 9" in seg_transfer.evaluate(predictions, reference, workers=0).labels
    assert "label 9" not in by_number.labels and by_number.cases["b"]["label 1"].metrics["dice"] == 1
    scores.save(tmp_path / "scores.json")
    assert Scores.load(tmp_path / "scores.json").labels == scores.labels
    save_csv(scores, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    assert [row["value"] for row in rows[:2]] == ["1 2", "2"]
    assert "organs" in text_of(summary_table(scores)) and "organs" in text_of(cases_table(scores))


def test_other_ending_and_orientation(tmp_path):
    """The reference is stored in LPS order as .nrrd and turned; the world is the same."""
    write(tmp_path / "p" / "a.nii.gz", label_map())
    turned = np.flip(label_map(), (0, 1)).transpose(2, 0, 1)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[0, 1], affine[1, 2] = 5, -2, -2
    affine[:, 3] = (2.0 * (SHAPE[0] - 1), 2.0 * (SHAPE[1] - 1), 0, 1)
    write(tmp_path / "r" / "a.nrrd", turned, affine)
    case = evaluate_folders(tmp_path / "p", tmp_path / "r", labels=LABELS).cases["a"]
    assert case["liver"].metrics["dice"] == case["spleen"].metrics["dice"] == 1
    assert case["liver"].metrics["hd95"] == 0


def test_2d_images_are_measured_in_pixels(tmp_path):
    for folder, shift in (("p", 3), ("r", 0)):
        image = np.zeros((20, 30), np.uint8)
        image[5:10, 5 + shift : 10 + shift] = 255
        (tmp_path / folder).mkdir()
        Pillow.fromarray(image).save(tmp_path / folder / "a.png")
    scores = evaluate_folders(tmp_path / "p", tmp_path / "r", labels={"cell": 255})
    assert scores.unit == "pixel"
    assert scores.cases["a"]["cell"].metrics["hd95"] == 3
    assert scores.cases["a"]["cell"].metrics["nsd"] == pytest.approx(0.5)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_case_that_does_not_fit_is_named_and_the_others_go_on(folders, workers):
    predictions, reference = folders
    write(predictions / "a.nii.gz", label_map()[:-1])
    moved = AFFINE.copy()
    moved[0, 3] = 40
    write(predictions / "b.nii.gz", label_map(), moved)
    scores = evaluate_folders(predictions, reference, labels=LABELS, workers=workers)
    assert list(scores.cases) == ["c"]
    assert list(scores.failures) == ["a", "b"]
    assert "11 x 10 x 6" in scores.failures["a"]
    assert "20 voxels" in scores.failures["b"]
    assert str(predictions / "b.nii.gz") in scores.failures["b"]
    assert "hint: resample" in scores.failures["b"]


def test_missing_predictions_are_failures_and_extra_ones_are_told(folders):
    predictions, reference = folders
    (predictions / "b.nii.gz").rename(predictions / "d.nii.gz")
    scores = evaluate_folders(predictions, reference)
    assert list(scores.failures) == ["b"]
    assert scores.without_reference == ("d",)
    assert "d" not in scores.cases
    table = text_of(summary_table(scores))
    assert "not scored: b" in table
    assert "without a reference: d" in table


def test_two_files_are_compared_whatever_their_names(folders):
    predictions, reference = folders
    scores = evaluate_folders(predictions / "b.nii.gz", reference / "a.nii.gz", labels=LABELS)
    assert scores.cases["a"]["liver"].metrics["dice"] == 1


def test_what_cannot_be_evaluated_is_said(folders, tmp_path):
    predictions, reference = folders
    with pytest.raises(UserError, match="no such file or folder"):
        evaluate_folders(tmp_path / "nowhere", reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no label map"):
        evaluate_folders(tmp_path / "empty", reference)
    write(tmp_path / "other" / "x.nii.gz", label_map())
    with pytest.raises(UserError, match=r"named x.*references a, b, c"):
        evaluate_folders(tmp_path / "other", reference)
    with pytest.raises(UserError, match="negative"):
        evaluate_folders(predictions, reference, tolerance=-1)
    write(predictions / "a.nrrd", label_map())
    with pytest.raises(UserError, match=r"a\.nii\.gz and a\.nrrd are the same case"):
        evaluate_folders(predictions, reference)


def test_json_holds_the_summary_and_null_for_what_is_undefined(folders, tmp_path):
    scores = evaluate_folders(*folders, labels=LABELS, tolerance=2)
    scores.save(tmp_path / "scores.json")
    raw = json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)
    assert raw["cases"]["c"]["spleen"]["metrics"]["dice"] is None
    assert raw["summary"]["spleen"]["metrics"]["dice"]["mean"] == 0.5
    assert raw["mean_dice"] == pytest.approx(scores.mean_dice)
    assert raw["tolerance"] == 2
    again = Scores.load(tmp_path / "scores.json")
    assert again.model_dump_json() == scores.model_dump_json()
    assert math.isnan(again.cases["c"]["spleen"].metrics["dice"])


def test_a_broken_json_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="there is no file of scores here"):
        Scores.load(tmp_path / "scores.json")
    for broken in ('{"version": 2, "unit": "inch"}', '{"cases": {"a": {"liver": 0.5}}}', "{}", "nothing"):
        (tmp_path / "scores.json").write_text(broken)
        with pytest.raises(UserError, match=r"scores\.json: .*\n.*evaluate again"):
            Scores.load(tmp_path / "scores.json")


def file_of(path, version, *scores, **others):
    """A scores.json of one label, as it lies on disk."""
    cases = {f"case_{number}": {"liver": score} for number, score in enumerate(scores)}
    record = {"version": version, "unit": "mm", "tolerance": 1.0, "labels": {"liver": 1}, "cases": cases, **others}
    path.write_text(json.dumps(record))
    return path


VOXELS = {"prediction_voxels": 4, "reference_voxels": 4}


def test_a_file_of_version_1_is_read(tmp_path):
    """Its metrics were fields of the label, beside the counts."""
    flat = {"dice": 0.75, "iou": 0.6, "hd95": None, "nsd": 0.5, "volume_difference": 0.1}
    flat |= {"relative_volume_difference": -0.25}
    loaded = Scores.load(file_of(tmp_path / "scores.json", 1, flat | VOXELS, summary={"liver": {}}, mean_dice=0.75))
    score = loaded.cases["case_0"]["liver"]
    assert math.isnan(score.metrics["hd95"])
    assert {name: score.metrics[name] for name in flat if name != "hd95"} | {"hd95": None} == flat
    assert loaded.mean_dice == 0.75
    assert (score.prediction_voxels, score.reference_voxels) == (4, 4)
    loaded.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["version"] == 2


def test_metrics_that_a_file_lacks_are_undefined_and_unknown_ones_are_kept(tmp_path):
    new = {"metrics": {"dice": 0.5, "sharpness": 3.0}, "colour": "red"} | VOXELS
    old = {"metrics": {"dice": 0.25}} | VOXELS
    loaded = Scores.load(file_of(tmp_path / "scores.json", 2, new, old, author="someone"))
    assert loaded.mean_dice == 0.375
    summary = loaded.summary["liver"].metrics
    assert (summary["nsd"].cases, summary["sharpness"].cases, summary["sharpness"].mean) == (0, 1, 3)
    save_csv(loaded, tmp_path / "scores.csv")
    row = next(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    assert (row["dice"], row["nsd"]) == ("0.5", "") and "sharpness" not in row
    assert "0.375" in text_of(summary_table(loaded))


def test_a_new_metric_is_one_entry_of_the_table(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "found", Metric(lambda masks: masks.common / masks.true, "found", best=1))
    scores = evaluate_folders(*folders, labels={"liver": 1})
    assert scores.cases["a"]["liver"].metrics["found"] == 0.75  # 24 of 32 voxels
    assert scores.summary["liver"].metrics["found"].mean == pytest.approx(2.75 / 3)
    save_csv(scores, tmp_path / "scores.csv")
    rows = csv.DictReader((tmp_path / "scores.csv").open(newline=""))
    assert [row["found"] for row in rows] == ["0.75", "1.0", "1.0"]
    lines = [line.split() for line in text_of(summary_table(scores)).splitlines()]
    assert next(line for line in lines if line[:1] == ["label"])[-1] == "found"
    assert next(line for line in lines if line[:1] == ["liver"])[-1] == "0.917"


def test_csv_has_a_row_per_case_and_label(folders, tmp_path):
    scores = evaluate_folders(*folders, labels=LABELS)
    save_csv(scores, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    assert [(row["case"], row["label"]) for row in rows] == [(c, name) for c in "abc" for name in ("liver", "spleen")]
    assert float(rows[0]["dice"]) == 0.75
    assert (rows[5]["dice"], rows[5]["empty"], rows[5]["value"]) == ("", "both", "2")
    assert [path.name for path in tmp_path.glob("*scores*")] == ["scores.csv"]


def test_tables_show_the_worst_case_first_and_what_is_missing(folders):
    scores = evaluate_folders(*folders, labels=LABELS)
    summary = [line.split() for line in text_of(summary_table(scores)).splitlines()]
    assert summary[0] == ["3", "cases;", "mean", "Dice", "0.708"]
    spleen = next(line for line in summary if line[:1] == ["spleen"])
    # Dice, median, IoU, HD95, NSD, volume in ml and %, false negative, absent in both; no case has a false positive.
    assert " ".join(spleen).startswith("spleen 0.500 ± 0.500 0.500 0.500 0.0 0.500 -0.0533 -50.0 ")
    assert spleen[-2:] == ["1", "1"]
    rows = [line.split() for line in text_of(cases_table(scores)).splitlines()]
    assert [row for row in rows if row[:1] in (["a"], ["b"], ["c"])] == [
        ["b", "0.500", "1.000", "0.000"],
        ["a", "0.875", "0.750", "1.000"],
        ["c", "1.000", "1.000", "–"],
    ]


def test_figures_leave_undefined_values_out():
    figures = Figures.of([1.0, math.nan, 3.0])
    assert (figures.mean, figures.std, figures.median, figures.cases) == (2, 1, 2, 2)
    assert math.isnan(Figures.of([math.nan]).mean)
