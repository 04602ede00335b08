"""Plan, preprocess, train, predict, evaluate, in this process, on a tiny data set made here."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest
from made_balls import LABELS, LOCAL, QUICK, make_case, make_dataset
from PIL import Image

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.training.trainer import Trainer
from seg_transfer.workflow import measure as measuring
from seg_transfer.workflow.status import status
from seg_transfer.workflow.validate import TrainedFold
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.real_plots


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "work"


@pytest.fixture(scope="module")
def planned(data: Path, work: Path) -> Plan:
    made = seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    assert files(work) == {"dataset.json", "fingerprint.json", "fingerprint.stamp", "site.json", "plan.json"}
    return made


@pytest.fixture(scope="module")
def trained(planned: Plan, work: Path) -> TrainedFold:
    store = seg_transfer.preprocess(work=work, workers=0)
    assert store == work / "preprocessed" / part_hash(planned.data)
    assert {path.name for path in store.iterdir() if path.is_dir()} == {f"case_{seed}" for seed in range(4)}
    (run,) = seg_transfer.train(0, work=work, **LOCAL)
    return run


def test_the_plan_is_about_this_data_set(planned: Plan, work: Path) -> None:
    assert planned == Plan.load(work / "plan.json")
    assert [(label.name, label.value) for label in planned.data.labels] == list(LABELS.items())
    assert [channel.name for channel in planned.data.channels] == ["MRI"]
    assert planned.data.axes[0] == 2
    assert len(planned.recipe.splits) == 2
    assert sorted(case for split in planned.recipe.splits for case in split.validation) == list(planned.data.cases)
    assert {"model.patch", "model.configuration"} <= {reason.field for reason in planned.reasons}


def test_a_trained_fold_has_exactly_these_files(trained: TrainedFold, planned: Plan) -> None:
    found = {name for name in files(trained.folder) if not name.startswith("tensorboard/")}
    held_out = planned.recipe.splits[0].validation
    assert found == {
        "manifest.json",
        "model.safetensors",
        "resume.safetensors",
        "log.csv",
        "progress.png",
        "validation/scores.json",
        "validation/scores.csv",
        "validation/overlay.png",
        *(f"validation/{case}.nii.gz" for case in held_out),
    }
    assert all(Image.open(trained.folder / name).size[0] > 900 for name in ("progress.png", "validation/overlay.png"))
    assert trained.scores is not None
    assert set(trained.scores.cases) == set(held_out)
    assert trained.scores.labels == {"ball": 1, "core": 4}


def test_a_finished_fold_is_not_trained_again(trained: TrainedFold, work: Path) -> None:
    before = times(trained.folder)
    (again,) = seg_transfer.train("0", work=work, **LOCAL)
    assert again.scores is not None and trained.scores is not None
    assert again.scores.mean_dice == pytest.approx(trained.scores.mean_dice, nan_ok=True)
    assert times(trained.folder) == before


def test_predictions_lie_on_the_grid_of_their_images(
    trained: TrainedFold, data: Path, work: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for seed in (2, 3):
        shutil.copy(data / "imagesTr" / f"case_{seed}_0000.nii.gz", images)
    options = {"work": work, "device": "cpu", "tta": False}
    output = seg_transfer.predict(images, tmp_path / "out", probabilities=True, **options)
    maps = {f"{kind}case_{seed}.nii.gz" for kind in ("", "probabilities/") for seed in (2, 3)}
    assert files(output) == maps | {"predictions.json"}
    image = nibabel.load(data / "imagesTr" / "case_3_0000.nii.gz")
    predicted = nibabel.load(output / "case_3.nii.gz")
    assert predicted.shape == image.shape
    np.testing.assert_allclose(predicted.affine, image.affine, atol=1e-5)
    labels = np.asarray(predicted.dataobj)
    assert set(np.unique(labels)) <= set(LABELS.values())
    probabilities = np.asarray(nibabel.load(output / "probabilities" / "case_3.nii.gz").dataobj)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-3)

    single = seg_transfer.predict(images / "case_3_0000.nii.gz", tmp_path / "one", **options)
    assert files(single) == {"case_3.nii.gz", "predictions.json"}
    np.testing.assert_array_equal(np.asarray(nibabel.load(single / "case_3.nii.gz").dataobj), labels)

    # The file's x axis points to the left; an array is given in RAS order.
    array = np.asarray(image.dataobj)[::-1]
    in_memory = seg_transfer.predict(array, spacing=(1.0, 1.0, 2.5), **options)
    assert np.mean(in_memory[::-1] != labels) < 0.01


def test_evaluation_of_a_perfect_and_of_a_missing_prediction(
    trained: TrainedFold, data: Path, work: Path, tmp_path: Path
) -> None:
    scores = seg_transfer.evaluate(
        data / "labelsTr", data / "labelsTr", work=work, json=tmp_path / "s.json", csv=tmp_path / "s.csv", workers=0
    )
    assert scores.mean_dice == 1 and not scores.failures
    assert json.loads((tmp_path / "s.json").read_text())["mean_dice"] == 1
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 1 + 4 * 2
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "case_0.nii.gz").write_bytes((data / "labelsTr" / "case_0.nii.gz").read_bytes())
    assert main(["evaluate", str(tmp_path / "some"), str(data / "labelsTr"), "--workers", "0", "-q"]) == 3


def test_another_strategy_neither_measures_nor_preprocesses_again(
    trained: TrainedFold, planned: Plan, data: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "examine", again)
    store, run = times(work / "preprocessed"), times(trained.folder)
    other = seg_transfer.plan(data, work=work, strategy="scratch", **{**QUICK, "time_budget": 1.0}, **LOCAL)
    try:
        assert other.recipe.strategy.name == "scratch" and other.hash != planned.hash
        seg_transfer.preprocess(work=work, workers=0)
        assert times(work / "preprocessed") == store
        (full,) = seg_transfer.train("full", work=work, **LOCAL)
        assert full.scores is None and not (full.folder / "validation").exists()
        assert times(work / "preprocessed") == store
        assert times(trained.folder) == run
        found = status(work=work)
        assert {(r.current, str(r.fold)): r.state for r in found.runs} == {
            (True, "0"): "not started",
            (True, "1"): "not started",
            (True, "full"): "trained",
            (False, "0"): "validated",
        }
    finally:
        seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    assert Plan.load(work / "plan.json").hash == planned.hash


def test_a_changed_file_is_measured_again(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data")
    first = seg_transfer.plan(data, work=tmp_path / "work", **QUICK, **LOCAL)
    make_case(data, "case_0", seed=9)
    second = seg_transfer.plan(data, work=tmp_path / "work", **QUICK, **LOCAL)
    fingerprint = json.loads((tmp_path / "work" / "fingerprint.json").read_text())
    assert fingerprint["cases"][0]["shape"] == [29, 24, 8]
    assert first.data.cases == second.data.cases


def test_patients_stay_together_and_chosen_cases_alone_are_planned(data: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "cases.txt"
    chosen.write_text("case_0\n\ncase_2\ncase_3\n")
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"case_0": "anna", "case_2": "anna", "case_3": "ben"}))
    made = seg_transfer.plan(
        data, work=tmp_path / "work", cases=chosen, groups=groups, **{**QUICK, "folds": 5}, **LOCAL
    )
    assert made.data.cases == ("case_0", "case_2", "case_3")
    assert {split.validation for split in made.recipe.splits} == {("case_0", "case_2"), ("case_3",)}


def test_broken_cases_are_named_together_and_can_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, work = make_dataset(tmp_path / "data"), tmp_path / "work"
    (data / "imagesTr" / "case_1_0000.nii.gz").write_bytes(b"cut off")
    (data / "labelsTr" / "case_2.nii.gz").unlink()
    arguments = [
        "plan",
        str(data),
        "-w",
        str(work),
        "--workers",
        "0",
        "--device",
        "cpu",
        "--config",
        "2d",
        "--folds",
        "2",
    ]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "case_1_0000.nii.gz" in said and "case_2.nii.gz" in said and "Traceback" not in said
    assert not work.exists()
    assert main([*arguments, "--skip-broken", "-q"]) == 0
    assert "case_1" in capsys.readouterr().err
    assert Plan.load(work / "plan.json").data.cases == ("case_0", "case_3")


def test_cases_that_break_later_are_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, work = make_dataset(tmp_path / "data"), tmp_path / "work"
    made = seg_transfer.plan(data, work=work, **QUICK, **LOCAL)
    (data / "imagesTr" / "case_1_0000.nii.gz").write_bytes(b"cut off")
    assert main(["preprocess", "-w", str(work), "--workers", "0", "-q"]) == 3
    assert "case_1" in capsys.readouterr().err
    store = WorkFolder(work).store_folder(made)
    assert {path.name for path in store.iterdir() if path.is_dir()} == {"case_0", "case_2", "case_3"}
    with pytest.raises(SomeCasesFailed, match="case_1"):
        seg_transfer.preprocess(work=work, workers=0)
    assert main(["train", "0", "-w", str(work), "--workers", "0", "--device", "cpu", "-q"]) == 2
    assert "case_1" in capsys.readouterr().err
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan {tmp}/nowhere", "nowhere"),
        ("plan {data} --encoder resnet1000", "resnet1000"),
        ("plan {data} --epochs 3 --time-budget 3m", "exclude each other"),
        ("plan {data} --group-by ( ", "no regular expression"),
        ("plan {data} --cases {tmp}/missing.txt", "missing.txt"),
        ("plan {data} --splits {tmp}/splits.json", "case_77"),
        ("plan {data} --normalization CT=zscore", "CT"),
        ("plan {data} --normalization MRI=nice", "nice"),
        ("plan {data} --weights {tmp}/none.safetensors", "none.safetensors"),
        ("plan {data} --memory 1KB", "memory"),
        ("plan {data} --device tpu", "tpu"),
        ("preprocess", "segtl plan"),
        ("train 0", "segtl plan"),
        ("predict -i {data}/imagesTr -o {tmp}/out", "segtl plan"),
        ("evaluate {tmp}/nowhere {data}/labelsTr", "nowhere"),
        ("status", "segtl plan"),
    ],
)
def test_users_errors_say_what_and_leave_nothing(
    command: str, said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "splits.json").write_text('[{"train": ["case_0"], "val": ["case_77"]}]')
    arguments = [part.format(data=data, tmp=tmp_path) for part in command.split()]
    if "evaluate" not in command:
        arguments += ["-w", str(tmp_path / "work")]
    if arguments[0] in ("plan", "train", "predict"):
        arguments += [] if "--device" in command else ["--device", "cpu"]
    if arguments[0] in ("plan", "train", "preprocess", "evaluate"):
        arguments += ["--workers", "0"]
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err and "hint:" in err and "Traceback" not in err
    assert out == ""
    assert files(tmp_path) == {"splits.json"}


def test_users_errors_on_a_planned_work_folder(
    trained: TrainedFold, data: Path, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times(work)
    for command, said in {
        "train 7": "0 to 1, and full",
        "train 0 --seed 99": "--restart",
        f"predict -i {tmp_path}/nothing -o {tmp_path}/out": "nothing",
        f"predict -i {data}/imagesTr -o {tmp_path}/out --folds 1": "not trained: 1",
    }.items():
        assert main([*command.split(), "-w", str(work), "--device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert said in err and "hint:" in err
    assert times(work) == before
    assert files(tmp_path) == set()


def test_a_plan_edited_by_hand_is_trained_on(
    trained: TrainedFold, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "work"
    shutil.copytree(work, mine)
    content = json.loads((mine / "plan.json").read_text())
    content["recipe"] |= {"batch_size": 2, "time_budget": 0.2}
    (mine / "plan.json").write_text(json.dumps(content))
    assert main(["train", "0", "-w", str(mine), "--workers", "0", "--device", "cpu"]) == 0
    assert "edited by hand: recipe" in capsys.readouterr().err
    assert main(["status", "-w", str(mine)]) == 0
    said = capsys.readouterr().out
    assert "edited by hand: recipe" in said
    current, earlier = said.index("current plan's runs: "), said.index("earlier plan's runs: ")
    assert current < earlier
    for runs in (said[current:earlier], said[earlier:]):
        rows = [line.split("│")[1:3] for line in runs.splitlines() if "validated" in line]
        assert [[cell.strip() for cell in row] for row in rows] == [["0", "validated"]]


def test_an_interrupted_training_is_exit_code_130_and_comes_next(
    planned: Plan, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "work"
    shutil.copytree(work, mine, ignore=shutil.ignore_patterns("runs"))
    step = Trainer.step

    def interrupted(self: Trainer, *arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "step", interrupted)
    arguments = ["-w", str(mine), "--workers", "0", "--device", "cpu", "-q"]
    assert main(["train", "1", "--epochs", "5", *arguments]) == 130
    assert "run the same command again" in capsys.readouterr().err
    found = status(work=mine)
    assert [run.state for run in found.runs if run.fold == 1] == ["interrupted"]
    assert found.next == [f"segtl train 1 -w {mine}"]
    with pytest.raises(UserError, match="no fold of this plan is trained"):
        seg_transfer.predict(np.zeros((8, 8, 8)), spacing=(1, 1, 1), work=mine, device="cpu")


def test_an_impossible_edit_of_the_plan_is_named_by_its_field(
    planned: Plan, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((work / "plan.json").read_text())
    content["model"]["patch"] = [1, 32]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    assert main(["train", "0", "-w", str(tmp_path)]) == 2
    assert "model.patch" in capsys.readouterr().err
    assert main(["status", "-w", str(tmp_path)]) == 2
    assert files(tmp_path) == {"plan.json"}
