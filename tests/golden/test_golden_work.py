"""A work folder and an exported model of version 0.2.0 are still read, predicted with, resumed and summarised."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.training.manifest import Manifest, installed_versions
from seg_transfer.version import DISTRIBUTION, VERSION
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).with_name("work")
NAME = "2d-resnet18-scratch-7464bac6"
LOCAL = {"work": "trained", "device": "cpu", "workers": 0}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkFolder:
    """A copy to work in."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return WorkFolder(Path("trained"))


def test_its_state_is_read(work: WorkFolder) -> None:
    found = status(work=work.path)
    assert (found.plan, found.edited, found.preprocessed) == (NAME, [], 4)
    states = [(run.fold, run.state) for run in found.runs]
    assert states == [(0, "validated"), (1, "interrupted"), ("full", "not started")]


@pytest.mark.parametrize("options", [LOCAL, {"model": "model.segtl", "device": "cpu"}], ids=["work folder", "model"])
def test_it_predicts_the_same_label_maps(work: WorkFolder, options: dict) -> None:
    output = seg_transfer.predict("data/imagesTr", "predicted", **options | {"workers": 0})
    for expected in sorted((work.runs / NAME / "fold_0" / "validation").glob("*.nii.gz")):
        labels = np.asarray(nibabel.load(output / expected.name).dataobj)
        assert labels.any()
        np.testing.assert_array_equal(labels, np.asarray(nibabel.load(expected).dataobj))


def test_an_interrupted_run_is_resumed(work: WorkFolder) -> None:
    before = Manifest.load(work.runs / NAME / "fold_1" / "manifest.json").result
    (run,) = seg_transfer.train(1, **LOCAL)
    after = Manifest.load(run.folder / "manifest.json").result
    assert run.folder == work.runs / NAME / "fold_1"
    assert not before.finished and before.steps < after.steps and after.finished
    assert [path.name for path in work.runs.iterdir()] == [NAME]
    assert run.scores is not None and run.scores.mean_dice > 0.5


def test_its_runs_are_summarised(work: WorkFolder) -> None:
    expected = Scores.load(work.runs / NAME / "fold_0" / "validation" / "scores.json").mean_dice
    work.choice.unlink()
    summary = seg_transfer.summary(work="trained", workers=0)
    assert (summary.best, summary.runs[0].mean_dice) == (NAME, expected)


def test_a_new_plan_starts_from_its_model(work: WorkFolder) -> None:
    plan = seg_transfer.plan("data", from_model="model.segtl", folds=2, **LOCAL | {"work": "other"})
    assert (plan.model.weights.source, plan.model.stages) == ("model", 1)


def test_versions_are_recorded_under_the_name_of_the_distribution(work: WorkFolder) -> None:
    """Earlier manifests have it as seg-transfer, and are read."""
    assert Manifest.load(work.runs / NAME / "fold_0" / "manifest.json").versions["seg-transfer"] == "0.2.0"
    assert installed_versions()[DISTRIBUTION] == VERSION
