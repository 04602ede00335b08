"""Races and controls on a made data set: what is opened, kept, trained, predicted with and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_balls import LOCAL, make_dataset
from made_plans import learns, threshold
from made_work import ball_plan, make_work

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.evidence import run_race as held
from seg_transfer.inference.predictor import Predictor
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.planning.model_file import read_model_file
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.planning.rules import race as rules
from seg_transfer.planning.strategy import Race, Strategy
from seg_transfer.planning.variants import scratch_control
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint import load_header
from seg_transfer.training.run_folder import RunFolder, TrainedRuns
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

FINETUNE = learns(0.0, 0.0, rate=0.3, batchnorm="recalibrated", pretrained=2, name="finetune")
PLAIN = learns(0.0, 0.0, rate=0.3, batchnorm="source", pretrained=2, name="finetune")
FROZEN = learns(None, None, batchnorm="recalibrated", pretrained=2, name="frozen")
SCRATCH = learns(0.0, 0.0, name="scratch")
HELD_OUT = (("case_1", "case_3"), ("case_0", "case_2"), ("case_0", "case_1"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "balls", cases=8)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is enough."""
    monkeypatch.setattr(rules, "FEWEST_STEPS", 1)


@pytest.fixture
def work(data: Path, tmp_path: Path) -> WorkFolder:
    return make_work(tmp_path / "work", data)


def put(work: WorkFolder, *challengers: Strategy, weights: str = "bundled", **recipe: Any) -> Plan:
    """Make a plan on two folds of four cases the one in force; with challengers it has a race."""
    encoder = "resnet18" if weights == "none" else "tf_efficientnet_lite0"
    made = ball_plan(Dataset.load(work.dataset), "2d", encoder=encoder)
    model = made.model.model_copy(update={"weights": Weights(source=weights)})
    settings: dict[str, Any] = {"strategy": FINETUNE, "epochs": 4, "steps_per_epoch": 4, "foreground_share": 1.0}
    if challengers:
        settings["race"] = Race(share=0.5, challengers=challengers, held_out=HELD_OUT)
    settings |= recipe
    if weights == "none":
        settings["strategy"] = settings["strategy"].model_copy(update={"pretrained_stages": 0})
    made = made.model_copy(update={"model": model, "recipe": made.recipe.model_copy(update=settings)})
    made.save(work.plan)
    return Plan.load(work.plan)


def times(folder: Path) -> dict[str, int]:
    return {path.as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_race_opens_no_held_out_case_and_its_winner_is_trained(
    work: WorkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(work, SCRATCH, FROZEN)
    seg_transfer.preprocess(work=work.path, workers=0)
    store = Store.open(work.store_folder(made), made.data)
    opened: set[str] = set()
    case = Store.case
    monkeypatch.setattr(Store, "case", lambda self, name: (opened.add(name), case(self, name))[1])
    run = work.plan_folder(made).run(0)
    chosen, options = held.run_race(made, store, run, options=RunOptions(device="cpu"))
    split = made.recipe.splits[0]
    assert opened == set(split.train) and not opened & set(split.validation)

    evidence = RaceEvidence.load(run.race)
    assert (set(evidence.train) | set(evidence.held_out), set(evidence.held_out)) == (
        set(split.train),
        set(HELD_OUT[0]),
    )
    assert [result.strategy.name for result in evidence.results] == ["finetune", "scratch", "frozen"]
    assert (evidence.steps, evidence.epochs, evidence.seed) == (2, 4, 0)  # 2 of 4 epochs, for three of them
    assert all(set(result.dice) == set(HELD_OUT[0]) for result in evidence.results)
    assert all(set(of_label) == {"ball", "core"} for result in evidence.results for of_label in result.dice.values())
    assert [path.name for path in run.path.iterdir()] == ["race.json"]  # what candidates need is gone
    assert chosen.recipe.race is None and options.epochs == 2 and options.seed == 0
    assert evidence.winner is not None and chosen.recipe.strategy == made.recipe.candidates[evidence.winner]


def test_the_model_says_what_was_trained_and_predicts(work: WorkFolder, tmp_path: Path) -> None:
    made = put(work, SCRATCH)
    for fold, winner in ((0, 1), (1, 0)):  # decided beforehand, so that the folds differ
        decide(work, made, fold, winner)
    runs = seg_transfer.train("cv", work=work.path, **LOCAL)
    assert [run.strategy for run in runs] == ["scratch", "finetune"]
    plans = [
        Plan.model_validate(load_header(work.plan_folder(made).run(fold).model, "model")["plan"]) for fold in (0, 1)
    ]
    assert [plan.recipe.strategy.name for plan in plans] == ["scratch", "finetune"]
    assert [plan.model.weights.source for plan in plans] == ["none", "bundled"]
    manifests = [json.loads((run.folder / "manifest.json").read_text()) for run in runs]
    assert [manifest["result"]["steps"] for manifest in manifests] == [8, 8]
    assert manifests[0]["weights"]["share"] == 0 and manifests[1]["weights"]["share"] == 1

    array = np.random.default_rng(0).normal(size=(20, 24, 8)).astype(np.float32)
    options: dict[str, Any] = {"spacing": (1, 1, 2.5), "device": "cpu"}
    both = seg_transfer.predict(array, work=work.path, **options)
    file = tmp_path / "model.segtl"
    seg_transfer.export(file, work=work.path)
    np.testing.assert_array_equal(seg_transfer.predict(array, model=file, **options), both)
    (member,) = read_model_file(file).header.members
    assert member.plan.recipe.strategy_name == "race" and "case_" not in member.model_dump_json()
    assert ", race; mean of 2 fold(s)" in seg_transfer.card(file)

    seg_transfer.export(file, work=work.path, folds=[0])
    (member,) = read_model_file(file).header.members
    assert (member.plan.recipe.strategy_name, member.plan.model.weights.source) == ("scratch", "none")

    kept = times(runs[1].folder)
    (run,) = seg_transfer.train(1, work=work.path, control=True, **LOCAL)  # which gets the budget of race and training
    assert {name: times(run.folder)[name] for name in kept if not name.endswith("validation")}.items() <= kept.items()
    assert run.control is not None and run.strategy == "finetune"
    assert json.loads((run.control.folder / "manifest.json").read_text())["result"]["steps"] == 16
    summary = seg_transfer.summary(work=work.path, workers=0)
    assert [(each.strategy, each.folds) for each in summary.runs] == [("race", (0, 1)), ("scratch", (1,))]


def decide(work: WorkFolder, made: Plan, fold: int, winner: int) -> None:
    """Leave a finished race in a fold's folder."""
    cases = {case: {"ball": 0.5, "core": None} for case in HELD_OUT[fold]}
    results = [{"strategy": one.model_dump(), "seconds": 1.0, "dice": cases} for one in made.recipe.candidates]
    asked = {"fold": fold, "seed": 0, "epochs": 4, "time_budget": None}
    kept = {"steps": 3, "train": ["case_5"], "held_out": HELD_OUT[fold], "results": results, "winner": winner}
    evidence = RaceEvidence.model_validate(asked | kept | {"reason": "made up"})
    evidence.save(work.plan_folder(made).run(fold).race)


def test_an_interrupted_race_goes_on_and_a_finished_one_is_kept(
    work: WorkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(work, SCRATCH, strategy=PLAIN, epochs=None, time_budget=1.0)
    score, scored = held.dice_on_grid, []

    def stop_at_the_second(predictor: Any, stored: Any) -> Any:
        scored.append(stored.id)
        if len(scored) == 1 + len(HELD_OUT[0]):
            raise KeyboardInterrupt
        return score(predictor, stored)

    def hold(**options: Any) -> tuple[Plan, RunOptions]:
        return held.run_race(made, store, RunFolder(path.parent, 0), options=RunOptions(device="cpu", **options))

    seg_transfer.preprocess(work=work.path, workers=0)
    store, path = Store.open(work.store_folder(made), made.data), work.plan_folder(made).run(0).race
    monkeypatch.setattr(held, "dice_on_grid", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        hold()
    before = RaceEvidence.load(path)
    assert len(before.results) == 1 and before.winner is None
    trained = times(path.parent / "race" / "1")
    assert any(name.endswith("model.safetensors") for name in trained)

    chosen, options = hold()
    after = RaceEvidence.load(path)
    assert after.results[0] == before.results[0] and len(after.results) == 2 and after.winner is not None
    assert after.steps == before.steps and scored[-2:] == list(HELD_OUT[0])
    spent = sum(result.seconds for result in after.results)
    assert (options.time_budget, options.epochs) == (max(1.0 - spent, 0.5), None)  # at least half of the second
    assert not (path.parent / "race").exists()

    kept = times(path.parent)
    assert hold() == (chosen, options) and times(path.parent) == kept
    with pytest.raises(UserError, match=r"started with seed 0 \(now 3\)"):
        hold(seed=3)
    (path.parent / "model.safetensors").touch()
    assert hold(seed=3, restart=True)[1].seed == RaceEvidence.load(path).seed == 3
    assert [file.name for file in path.parent.iterdir()] == ["race.json"]


def test_a_broken_candidate_loses(work: WorkFolder) -> None:
    nothing_learns = learns(0.0, 0.0, rate=0.0, batchnorm="source", name="finetune")
    good = learns(0.0, 0.0, name="finetune")
    made = put(work, good, weights="none", strategy=nothing_learns, epochs=2, steps_per_epoch=60)
    assert made.recipe.race is not None
    three = made.recipe.race.model_copy(update={"held_out": (made.recipe.splits[0].train[1:], *HELD_OUT[1:])})
    made = made.model_copy(update={"recipe": made.recipe.model_copy(update={"race": three})})
    seg_transfer.preprocess(work=work.path, workers=0)
    store = Store.open(work.store_folder(made), made.data)
    chosen, _ = held.run_race(made, store, work.plan_folder(made).run(0), options=RunOptions(device="cpu"))
    evidence = RaceEvidence.load(work.plan_folder(made).run(0).race)
    assert evidence.winner == 1 and chosen.recipe.strategy == good


def test_too_few_steps_are_no_race(
    work: WorkFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rules, "FEWEST_STEPS", 5)
    made = put(work, SCRATCH)
    seg_transfer.preprocess(work=work.path, workers=0)
    store, folder = Store.open(work.store_folder(made), made.data), work.plan_folder(made)
    for _ in range(2):
        chosen, options = held.run_race(made, store, folder.run(0), options=RunOptions(device="cpu"))
        assert chosen.recipe.strategy == FINETUNE and chosen.recipe.race is None
        assert (options.epochs, options.time_budget) == (4, None)
        assert "no race: 4 step(s) of each candidate are too few (at least 5)" in caplog.text
        caplog.clear()
    evidence = RaceEvidence.load(folder.run(0).race)
    assert (evidence.results, evidence.winner) == ((), 0)
    assert TrainedRuns(folder, (0,)).plan_as_trained == chosen


def test_dice_on_the_grid_is_that_of_the_whole_volume(work: WorkFolder) -> None:
    made = put(work)
    seg_transfer.preprocess(work=work.path, workers=0)
    stored = Store.open(work.store_folder(made), made.data).case("case_5")
    predictor = Predictor(made, [threshold], torch.device("cpu"))
    label, image = stored.label[:], stored.image[0]
    predicted = np.where(image > 1.5, 2, np.where(image > 0.5, 1, 0))
    expected = {
        name: 2
        * ((predicted == value) & (label == value)).sum()
        / ((predicted == value).sum() + (label == value).sum())
        for name, value in (("ball", 1), ("core", 2))
    }
    assert held.dice_on_grid(predictor, stored) == pytest.approx(expected)
    assert 0 < expected["ball"] < 1


def test_control_trains_from_scratch_once_and_reports_both(
    work: WorkFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    made = put(work)
    control = scratch_control(made)
    arguments = ["train", "0", "--control", "-w", str(work.path), "--device", "cpu", "--workers", "0", "-q"]
    assert main([*arguments, "--epochs", "1", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert "planned" in shown and "from scratch" in shown
    assert re.search(r"The pretrained start (improved Dice|worsened Dice|made no significant difference): ", shown)
    manifests = [json.loads(work.plan_folder(plan).run(0).manifest.read_text()) for plan in (made, control)]
    assert manifests[0]["options"] == manifests[1]["options"] and manifests[0]["options"]["epochs"] == 1
    assert manifests[0]["cases"] == manifests[1]["cases"]
    assert [manifest["weights"]["share"] for manifest in manifests] == [1, 0]
    assert [manifest["result"]["steps"] for manifest in manifests] == [4, 4]
    found = json.loads(work.plan_folder(made).run(0).control.read_text())
    assert found["cases"] == sorted(made.recipe.splits[0].validation)
    assert found["run"]["strategy"] == "finetune" and found["control"]["strategy"] == "scratch"
    assert found["lower"] <= found["difference"] <= found["upper"]

    kept = {name: time for name, time in times(work.runs).items() if not name.endswith(("control.json", "validation"))}
    assert main(arguments) == 0  # without the options: those recorded hold for the control too
    assert kept.items() <= times(work.runs).items()
    summary = seg_transfer.summary(work=work.path, workers=0)
    assert {run.strategy: run.name for run in summary.runs} == {
        "finetune": work.plan_folder(made).name,
        "scratch": work.plan_folder(control).name,
    }
    assert Plan.load(work.plan) == made


@pytest.mark.parametrize(
    ("fold", "weights", "said"),
    [("0", "none", "random weights itself"), ("full", "bundled", "full holds no case out")],
)
def test_a_control_of_nothing_is_refused(
    fold: str, weights: str, said: str, work: WorkFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    put(work, weights=weights)
    assert main(["train", fold, "--control", "-w", str(work.path), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert said in err and "hint:" in err and not work.runs.exists()


def test_planning_deals_the_race_by_group(data: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({f"case_{number}": str(number // 2) for number in range(8)}))
    options: dict[str, Any] = {"config": "2d", "folds": 2, "memory": 10**9, "epochs": 2, "groups": groups}
    made = seg_transfer.plan(data, work=tmp_path / "work", strategy="race", **options, **LOCAL)
    assert made.recipe.race is not None
    for trained, kept in zip(
        [*(split.train for split in made.recipe.splits), made.data.cases], made.recipe.race.held_out, strict=True
    ):
        assert set(kept) < set(trained)
        assert not {int(case[-1]) // 2 for case in kept} & {int(case[-1]) // 2 for case in set(trained) - set(kept)}
    assert (tmp_path / "work" / "plan.json").is_file()
