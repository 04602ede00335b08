"""Nested regions and sparse annotation, all the way: plan, train, validate, predict, evaluate, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import LOCAL
from made_regions import REGIONS, describe, dice, nested_balls, values_of, write_case

import seg_transfer
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

QUICK = {
    "config": "2d",
    "encoder": "tf_efficientnet_lite0",
    "weights": "bundled",
    "epochs": 2,
    "folds": 2,
    "memory": 10**9,
}
IGNORE = 7

pytestmark = pytest.mark.usefixtures("one_thread")


def shorten(work: Path) -> None:
    """Few steps of small batches: enough for bright balls, and quick."""
    path = WorkFolder(work).plan
    content = json.loads(path.read_text())
    content["recipe"] |= {"batch_size": 8, "steps_per_epoch": 20, "precision": "float32", "ema_decay": 0.8}
    path.write_text(json.dumps(content))


def test_nested_regions_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    for seed in range(4):
        write_case(data, f"case_{seed}", *nested_balls(seed))
    describe(data, REGIONS, regions_class_order=[1, 2, 3])
    planned = seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    assert planned.data.outputs == ("whole", "core", "nucleus")
    assert [label.value for label in planned.data.labels] == [0, 1, 2, 3]
    assert "data.regions" in {reason.field for reason in planned.reasons}
    shorten(work)

    (run,) = seg_transfer.train(0, work=work, **LOCAL)
    assert run.scores is not None
    assert run.scores.labels == {"whole": (1, 2, 3), "core": (2, 3), "nucleus": 3}
    means = {name: run.scores.summary[name].metrics["dice"].mean for name in run.scores.labels}
    assert means["whole"] > 0.85 and means["core"] > 0.75 and means["nucleus"] > 0.4
    assert (run.folder / "validation" / "overlay.png").is_file()
    header = (run.folder / "log.csv").read_text().splitlines()[0]
    assert "dice whole,dice core,dice nucleus" in header
    assert status(work=work).runs[0].state == "validated"

    held_out = planned.recipe.splits[0].validation
    image, truth = nested_balls(9)
    write_case(tmp_path / "new", "x", image, truth)
    output = seg_transfer.predict(tmp_path / "new" / "imagesTr", tmp_path / "out", work=work, probabilities=True)
    predicted = values_of(output / "x.nii.gz")
    assert set(np.unique(predicted)) == {0, 1, 2, 3}
    assert dice(predicted > 0, truth > 0) > 0.85
    probabilities = values_of(output / "probabilities" / "x.nii.gz")
    assert probabilities.shape == (*truth.shape, 3)
    # later regions are painted over earlier ones, on the grid of the file
    painted = np.zeros(truth.shape, np.uint8)
    for index in range(3):
        painted[probabilities[..., index] > 0.5] = index + 1
    np.testing.assert_array_equal(predicted, painted)

    scores = seg_transfer.evaluate(run.folder / "validation", data / "labelsTr", work=work, workers=0)
    assert set(scores.cases) == set(held_out)
    for case in held_out:
        mine, true = (
            values_of(run.folder / "validation" / f"{case}.nii.gz"),
            values_of(data / f"labelsTr/{case}.nii.gz"),
        )
        for name, values in scores.labels.items():
            expected = dice(np.isin(mine, values), np.isin(true, values))
            assert scores.cases[case][name].metrics["dice"] == pytest.approx(expected, nan_ok=True)
            assert run.scores.cases[case][name].metrics["dice"] == pytest.approx(expected, nan_ok=True)
    by_value = seg_transfer.evaluate(run.folder / "validation", data / "labelsTr", workers=0)
    assert by_value.labels == {"label 1": 1, "label 2": 2, "label 3": 3}


@pytest.mark.slow
def test_a_model_of_every_fourth_slice_labels_the_others(tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    truths = {}
    for seed in range(4):
        image, truth = nested_balls(seed)
        truths[f"case_{seed}"] = truth
        sparse = np.full_like(truth, IGNORE)
        sparse[:, :, 1::4] = truth[:, :, 1::4]
        write_case(data, f"case_{seed}", image, sparse)
    describe(data, {"background": 0, "shell": 1, "core": 2, "nucleus": 3, "ignore": IGNORE})
    planned = seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    assert planned.data.ignore == IGNORE
    assert planned.data.outputs == ("background", "shell", "core", "nucleus")
    why = {reason.field: reason.reason for reason in planned.reasons}
    assert "4 of 4 cases are partly annotated, 25.0% of the voxels" in why["data.ignore"]
    shorten(work)

    (run,) = seg_transfer.train(0, work=work, **LOCAL)
    store = Store.open(WorkFolder(work).store_folder(planned), planned.data)
    voxels = store.case("case_0").voxels
    assert len(voxels) == 5 and voxels[4] / sum(voxels) == pytest.approx(0.75)
    assert run.scores is not None
    for case in planned.recipe.splits[0].validation:
        predicted, truth = values_of(run.folder / "validation" / f"{case}.nii.gz"), truths[case]
        assert IGNORE not in predicted
        unlabelled = np.delete(np.arange(12), [1, 5, 9])
        assert dice(predicted[..., unlabelled] > 0, truth[..., unlabelled] > 0) > 0.85
        # the scores are those of the slices that are annotated
        annotated = slice(1, None, 4)
        for name, value in run.scores.labels.items():
            expected = dice(predicted[..., annotated] == value, truth[..., annotated] == value)
            assert run.scores.cases[case][name].metrics["dice"] == pytest.approx(expected, nan_ok=True)
            assert np.isnan(run.scores.cases[case][name].metrics["hd95"])

    image = nibabel.load(data / "imagesTr" / "case_0_0000.nii.gz")
    array = np.asarray(image.dataobj)[::-1, ::-1]
    predicted = seg_transfer.predict(array, spacing=(1.0, 1.0, 3.0), work=work, device="cpu")
    assert dice(predicted > 0, truths["case_0"][::-1, ::-1] > 0) > 0.85


@pytest.mark.slow
def test_atlas_numbers_the_whole_way(tmp_path: Path) -> None:
    """The same training as with the values 1 and 2: values are only names."""
    means = []
    for name, values in (("small", (1, 2)), ("large", (-3, 614454277))):
        data, work = tmp_path / name / "data", tmp_path / name / "work"
        for seed in range(4):
            image, truth = nested_balls(seed)
            write_case(data, f"case_{seed}", image, np.array([0, values[0], *values[1:] * 2], np.int32)[truth])
        describe(data, {"background": 0, "outer": values[0], "inner": values[1]})
        seg_transfer.plan(data, work=work, **QUICK | {"epochs": 1}, **LOCAL)
        shorten(work)
        (run,) = seg_transfer.train(0, work=work, **LOCAL)
        assert run.scores is not None and not run.scores.failures
        assert run.scores.labels == {"outer": values[0], "inner": values[1]}
        means.append(run.scores.mean_dice)
        held_out = next(iter(run.scores.cases))
        assert set(np.unique(values_of(run.folder / "validation" / f"{held_out}.nii.gz"))) <= {0, *values}
        seg_transfer.summary(work=work, workers=0)
    assert means[0] == means[1] > 0.3
