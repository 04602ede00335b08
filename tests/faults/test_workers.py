"""Workers that are killed while they work: the command goes on, or names the cases, and nothing stays half-written."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import Commands, Tried, hidden, results, workers_of
from made_balls import make_dataset
from made_work import LIGHT, add_run, ball_plan, make_work

from seg_transfer.data.dataset import Dataset

STEPS = {
    "plan, looking for label values": "seg_transfer.data.label_values:read_label",
    "plan, measuring": "seg_transfer.data.checks:read_image",
    "preprocess, before writing": "seg_transfer.preprocessing.cases:read_image",
    "preprocess, half-written": "seg_transfer.preprocessing.store:count_classes",
    "evaluate, scoring": "seg_transfer.evaluation.score_files:read_label",
    "summary, postprocessing": "seg_transfer.evaluation.largest_component:read_label",
}
"""What workers do -> the function in which they are killed."""
ALWAYS = 99
LATEST = 1.0
"""Seconds after its start at which a worker of such a small command is still there."""
CASES = 4


@dataclass
class Scene:
    """A folder with everything that the commands read, and the commands."""

    folder: Path
    before: Path
    commands: Commands

    def arguments(self, step: str) -> list[object]:
        name, work = step.partition(",")[0], ["-w", self.folder / "work", "--workers", "1"]
        if name == "plan":
            quick = ["--config", "2d", "--encoder", LIGHT, "--weights", "none", "--epochs", "1"]
            quick += ["--device", "cpu"]
            return ["plan", self.folder / "plain", *work, *quick, "--memory", "1GB", "--folds", "2"]
        if name == "evaluate":
            labels = self.folder / "balls" / "labelsTr"
            return ["evaluate", labels, labels, *work, "--json", self.folder / "scores.json"]
        return [name, *work]

    def restore(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)

    def undisturbed(self, step: str) -> dict[str, Any]:
        self.restore()
        self.commands.succeeds(*self.arguments(step), prepare=[["forked_workers"]])
        return results(self.folder)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Scene:
    folder = tmp_path_factory.mktemp("workers")
    scene = Scene(folder / "scene", folder / "before", commands)
    data = make_dataset(scene.folder / "balls", cases=CASES)
    for name in ("images", "labels"):
        (scene.folder / "plain" / name).mkdir(parents=True)
        for file in (data / f"{name}Tr").iterdir():
            shutil.copy(file, scene.folder / "plain" / name / file.name.replace("_0000", ""))
    work = make_work(scene.folder / "work", data)
    add_run(work, ball_plan(Dataset.load(work.dataset), "2d", encoder=LIGHT))
    scene.folder.rename(scene.before)
    return scene


QUICKLY = ("plan, measuring", "preprocess, half-written")


@pytest.mark.parametrize(
    "step", [step if step in QUICKLY else pytest.param(step, marks=pytest.mark.slow) for step in STEPS]
)
def test_killed_workers(scene: Scene, tmp_path: Path, step: str, tried: Tried) -> None:
    expected = scene.undisturbed(step)
    arguments = scene.arguments(step)
    for times in (1, ALWAYS):
        scene.restore()
        marks = tmp_path / str(times)
        marks.mkdir()
        prepare = [["forked_workers"], ["killed_in", STEPS[step], str(marks), times]]
        ended = scene.commands.run(*arguments, prepare=prepare)
        assert "Traceback" not in ended.text and list(marks.iterdir()), ended.text
        assert not hidden(scene.folder)
        if times == 1:
            assert ended.code == 0, ended.text
        else:
            assert ended.code in (2, 3) and "it was killed, probably since memory ran out" in ended.text, ended.text
            scene.commands.succeeds(*arguments, prepare=[["forked_workers"]])
        assert results(scene.folder) == expected
        tried(f"killed workers: {step}", len(list(marks.iterdir())))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["plan, measuring", "preprocess, half-written"])
@pytest.mark.parametrize("seed", range(4))
def test_a_spawned_worker_killed_at_any_moment(scene: Scene, step: str, seed: int, tried: Tried) -> None:
    """As above, but by chance, and perhaps while the worker starts."""
    expected = scene.undisturbed(step)
    scene.restore()
    killed = []

    def kill(number: int) -> None:
        moment = time.monotonic() + random.Random(f"{step} {seed}").uniform(0, LATEST)
        while time.monotonic() < moment + 60 and not killed:
            workers = workers_of(number)
            if workers and time.monotonic() > moment:
                with suppress(ProcessLookupError):
                    os.kill(workers[0], signal.SIGKILL)
                    killed.append(workers[0])

    ended = scene.commands.run(*scene.arguments(step), meanwhile=kill)
    assert ended.code == 0 and "Traceback" not in ended.text, ended.text
    assert results(scene.folder) == expected and not hidden(scene.folder)
    assert killed, "the command ended before"
    tried("killed workers: spawned", len(killed))
