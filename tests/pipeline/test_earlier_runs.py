"""Runs of an earlier segtl, whose plans lack a field and whose folders have other hashes: found, used, gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_balls import make_dataset
from made_work import ball_plan, make_work

import seg_transfer
from seg_transfer.data.dataset import Dataset
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.training.checkpoint import load_state, save_state
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.status import status
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL = {"device": "cpu", "workers": 0}
NAME, STORE = "2d-resnet18-scratch-0ld0ld00", "0ld0ld0ld0ld"


def drop_field(plan: dict) -> dict:
    """A plan's JSON as a segtl wrote it that did not have this field, whose default is what was done then."""
    plan = json.loads(json.dumps(plan))
    del plan["recipe"]["gradient_clip"]
    return plan


def make_earlier(work: WorkFolder) -> None:
    """Turn trained runs and the store into those of an earlier segtl."""
    (folder,) = work.plan_folders()
    plan = drop_field(json.loads(folder.plan_file.read_text()))
    folder.plan_file.write_text(json.dumps(plan))
    for run in folder.runs:
        for file, kind in ((run.model, "model"), (run.resume, "resume")):
            if file.is_file():
                tensors, header = load_state(file, kind)
                for row in header.get("state", {}).get("rows", []):
                    del row["validation_loss"]
                save_state(file, kind, tensors, header | {"plan": drop_field(header["plan"])})
        if run.scores.is_file():
            scores = json.loads(run.scores.read_text())
            run.scores.write_text(json.dumps({key: scores[key] for key in scores if key not in ("models", "digest")}))
    folder.path.rename(work.runs / NAME)
    (store,) = (work.path / "preprocessed").iterdir()
    data = json.loads((store / "plan-data.json").read_text())["data"]
    (store / "plan-data.json").write_text(json.dumps(data))
    store.rename(store.with_name(STORE))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Two trained and validated folds of 4 steps."""
    data = make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=4)
    work = make_work(tmp_path_factory.mktemp("work"), data)
    made = ball_plan(Dataset.load(work.dataset), "2d")
    recipe = made.recipe.model_copy(update={"epochs": 2, "steps_per_epoch": 2})
    made.model_copy(update={"recipe": recipe}).save(work.plan)
    seg_transfer.train("cv", work=work.path, **LOCAL)
    make_earlier(work)
    return work


def files(folder: Path) -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_they_are_the_current_plans_and_not_trained_again(work: WorkFolder) -> None:
    found = status(work=work.path)
    assert (found.plan, found.edited, found.preprocessed) == (NAME, [], 4)
    states = [(run.current, run.fold, run.state) for run in found.runs]
    assert states == [(True, 0, "validated"), (True, 1, "validated"), (True, "full", "not started")]
    before = files(work.path)
    runs = seg_transfer.train("cv", work=work.path, **LOCAL)
    assert [run.folder for run in runs] == [work.runs / NAME / "fold_0", work.runs / NAME / "fold_1"]
    assert files(work.path) == before


def test_they_predict_and_are_exported_and_summarised(work: WorkFolder, tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(20, 24, 8)).astype(np.float32)
    options = {"spacing": (1.0, 1.0, 2.5), "device": "cpu"}
    labels = seg_transfer.predict(array, work=work.path, **options)
    assert labels.shape == array.shape
    summary = seg_transfer.summary(work=work.path, workers=0)
    assert (summary.best, [run.folds for run in summary.runs], summary.left_out) == (NAME, [(0, 1)], {})
    assert [(chosen.run, chosen.folds) for chosen in Choice.load(work.choice).runs] == [(NAME, (0, 1))]
    seg_transfer.export(tmp_path / "model.segtl", work=work.path)
    assert read_model_file(tmp_path / "model.segtl").header.plan.recipe.gradient_clip == 12.0
    work.choice.unlink()


def test_an_interrupted_one_is_gone_on_with(work: WorkFolder) -> None:
    """As if it was stopped just before its model was written: no step is taken again."""
    (folder,) = work.plan_folders()
    run = folder.run(1)
    before = run.resume.stat().st_mtime_ns
    run.model.unlink()
    (again,) = seg_transfer.train(1, work=work.path, **LOCAL)
    assert again.run == run and run.validated
    assert run.resume.stat().st_mtime_ns == before


def test_a_new_fold_joins_them(work: WorkFolder) -> None:
    seg_transfer.train("full", work=work.path, epochs=1, **LOCAL)
    assert [path.name for path in work.runs.iterdir()] == [NAME]
    assert [path.name for path in (work.path / "preprocessed").iterdir()] == [STORE]
    assert status(work=work.path).runs[-1].state == "trained"
