"""Cross-validated scores of several runs, the choice among them, ensembles, and postprocessing where it helps."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work, nothing

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.model_file import Postprocessing
from seg_transfer.training.checkpoint import load_state, save_state
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.models import find_models
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL = {"device": "cpu", "workers": 0}


def crumb(labels: np.ndarray) -> None:
    """Far from the ball, a crumb of it in a corner."""
    labels[:3, :3, :1] = 1


def nicked(labels: np.ndarray) -> None:
    """The ball misses a slab, as much as in any case."""
    labels[:, : labels.shape[1] // 2] = 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=6)


@pytest.fixture
def work(data: Path, tmp_path: Path) -> WorkFolder:
    return make_work(tmp_path / "work", data)


def test_the_best_run_is_chosen_and_cleaned(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.load(work.dataset)
    worse = add_run(work, ball_plan(dataset, "2d"), predict=nicked)
    better = add_run(work, ball_plan(dataset, "2.5d"), predict=crumb)
    started = add_run(work, ball_plan(dataset, "3d"), folds=())
    names = [work.plan_folder(plan).name for plan in (better, worse, started)]
    assert main(["summary", "-w", str(work.path), "--workers", "0"]) == 0
    said = capsys.readouterr().out
    found = json.loads(work.summary.read_text())
    assert [run["name"] for run in found["runs"]] == names[:2]
    assert list(found["left_out"]) == names[2:] and "no fold is trained" in found["left_out"][names[2]]
    first, second = found["runs"]
    assert first["cases"] == second["cases"] == 6 and first["folds"] == [0, 1] and first["ranked"] and second["ranked"]
    scores = [json.loads(work.plan_folder(better).run(fold).scores.read_text()) for fold in (0, 1)]
    balls = [case["ball"]["metrics"]["dice"] for each in scores for case in each["cases"].values()]
    assert first["dice"] == {"ball": pytest.approx(np.mean(balls)), "core": 1.0}
    assert first["fold_std"] == pytest.approx(np.std([each["mean_dice"] for each in scores], ddof=1))
    assert found["lead"] == pytest.approx(first["mean_dice"] - second["mean_dice"]) and found["lead"] > 0.1
    assert found["spread"] == max(first["fold_std"], second["fold_std"])
    assert "more than the spread between folds" in said

    trials = {trial["what"]: trial for trial in found["postprocessing"]}
    assert trials["foreground"]["kept"] and trials["foreground"]["changed"] == 6
    assert not trials["ball"]["kept"] and trials["ball"]["changed"] == 0  # nothing is left to remove
    assert not trials["core"]["kept"]
    choice = Choice.load(work.choice)
    assert [(run.run, run.folds) for run in choice.runs] == [(names[0], (0, 1))]
    assert choice.postprocessing == Postprocessing(foreground=True)
    assert choice.dice == {"ball": 1.0, "core": 1.0} and choice.cases == 6


def test_runs_with_fewer_cases_are_shown_and_not_ranked(work: WorkFolder) -> None:
    dataset = Dataset.load(work.dataset)
    whole = add_run(work, ball_plan(dataset, "2d"), predict=nicked)
    part = add_run(work, ball_plan(dataset, "2.5d"), folds=(1,))
    found = seg_transfer.summary(work=work.path, workers=0)
    assert [(run.name, run.ranked) for run in found.runs] == [
        (work.plan_folder(whole).name, True),
        (work.plan_folder(part).name, False),
    ]
    assert found.runs[1].mean_dice > found.runs[0].mean_dice
    assert found.best == work.plan_folder(whole).name
    assert math.isnan(found.lead) and not found.beyond_spread
    assert math.isnan(found.runs[1].fold_std)


def test_scores_of_a_former_model_do_not_count_and_clocks_do_not_matter(work: WorkFolder) -> None:
    made = add_run(work, ball_plan(Dataset.load(work.dataset), "2d"))
    runs = [work.plan_folder(made).run(fold) for fold in (0, 1)]
    for run in runs:
        os.utime(run.model, ns=(2**62, 2**62))
    assert seg_transfer.summary(work=work.path, workers=0).best == work.plan_folder(made).name
    work.choice.unlink(), work.summary.unlink()
    for run in runs:
        tensors, header = load_state(run.model, "model")
        save_state(run.model, "model", tensors, header | {"steps": 5})
        os.utime(run.model, (5, 5))
    with pytest.raises(UserError, match="no fold of this data set is validated"):
        seg_transfer.summary(work=work.path, workers=0)
    assert not work.choice.exists() and not work.summary.exists()


def test_ensembles_average_probabilities_of_unseen_cases(work: WorkFolder) -> None:
    dataset = Dataset.load(work.dataset)
    plans = [add_run(work, ball_plan(dataset, kind), predict=nicked) for kind in ("2d", "2.5d")]
    found = seg_transfer.summary(work=work.path, ensembles=True, **LOCAL)
    (pair,) = [run for run in found.runs if len(run.runs) == 2]
    assert pair.ranked and pair.cases == 6 and pair.configuration in ("2d + 2.5d", "2.5d + 2d")
    assert set(pair.runs) == {work.plan_folder(plan).name for plan in plans}
    folder = work.ensembles / pair.name
    assert sorted(path.name for path in folder.rglob("*.nii.gz")) == [f"case_{n}.nii.gz" for n in range(6)]

    case = dataset.select([plans[0].recipe.splits[1].validation[0]]).cases[0]
    from seg_transfer.data.image import read_image, read_label
    from seg_transfer.inference.predictor import Predictor

    predictors = [Predictor.load([work.plan_folder(plan).run(1).model]) for plan in plans]
    transform, array = predictors[0].prepare(read_image(case.images))
    mean = (predictors[0].probabilities(array) + predictors[1].probabilities(array)) / 2
    wanted = predictors[0].labels_of(transform, mean)
    stored = read_label(folder / "fold_1" / f"{case.id}.nii.gz")
    from seg_transfer.data.geometry import to_native

    np.testing.assert_array_equal(to_native(stored.array[0], stored.native), wanted)

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert seg_transfer.summary(work=work.path, ensembles=True, **LOCAL) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_predict_needs_no_choice(work: WorkFolder) -> None:
    add_run(work, ball_plan(Dataset.load(work.dataset), "2d"), predict=nothing)
    array = np.random.default_rng(0).normal(size=(20, 24, 8)).astype(np.float32)
    options = {"spacing": (1, 1, 2.5), "work": work.path, "device": "cpu"}
    plain = seg_transfer.predict(array, **options)
    seg_transfer.summary(work=work.path, workers=0)
    np.testing.assert_array_equal(seg_transfer.predict(array, **options), plain)  # the same run, nothing to clean
    work.choice.write_text('{"version": 1, "runs": []}')
    with pytest.raises(UserError, match=r"choice\.json: runs: "):
        seg_transfer.predict(array, **options)


def test_a_choice_of_other_models_is_said(work: WorkFolder, caplog: pytest.LogCaptureFixture) -> None:
    made = add_run(work, ball_plan(Dataset.load(work.dataset), "2d"))
    seg_transfer.summary(work=work.path, workers=0)
    model = work.plan_folder(made).run(1).model
    os.utime(model, ns=(2**62, 2**62))
    assert find_models(work, None).choice is not None and "other models" not in caplog.text
    tensors, header = load_state(model, "model")
    save_state(model, "model", tensors, header | {"steps": 5})
    find_models(work, None)
    assert "was made with other models" in caplog.text


def test_a_choice_made_on_fewer_folds_than_are_trained_is_void(
    work: WorkFolder, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.load(work.dataset)
    plan = add_run(work, ball_plan(dataset, "2d"), folds=(0,))
    seg_transfer.summary(work=work.path, workers=0)
    assert [models.folds for models in find_models(work, None).runs] == [(0,)]
    assert "is not used" not in caplog.text
    add_run(work, plan, folds=(1,))
    found = find_models(work, None)
    assert [models.folds for models in found.runs] == [(0, 1)] and found.choice is None
    assert "made without fold 1" in caplog.text and "segtl summary" in caplog.text
    seg_transfer.summary(work=work.path, workers=0)
    found = find_models(work, None)
    assert [models.folds for models in found.runs] == [(0, 1)] and found.choice is not None
