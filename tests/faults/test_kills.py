"""Killed at any moment, a command leaves nothing that the same command does not mend: its result is the same."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import Commands, Tried, hidden, results
from made_balls import make_dataset
from made_work import LIGHT, ball_plan

from seg_transfer.data.dataset import find_dataset
from seg_transfer.workflow.work_folder import WorkFolder

SHARES = {"plan": 3, "preprocess": 4, "train": 3, "summary": 2, "predict": 3, "evaluate": 2, "export": 3}
"""Kills of each command in `make test`; ten times as many in the slow tests."""
MOST_LATE = 3
"""Draws of a moment that may come after the command's end, on a machine that is busy and then is not."""


@dataclass(frozen=True)
class Step:
    """A command, what it finds, and what it makes when nothing disturbs it."""

    arguments: list[object]
    before: Path
    made: dict[str, Any]
    seconds: float


class Scene:
    """A folder in which the commands run one after the other.

    Attributes:
        folder: With the data set, the work folder and everything that is made.
        steps: Command -> how it runs undisturbed.
    """

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder, self.commands, self.aside = folder / "scene", commands, folder / "before"
        data, work = make_dataset(self.folder / "balls"), WorkFolder(self.folder / "work")
        self.steps: dict[str, Step] = {}
        at, local = ["-w", work.path], ["-w", work.path, "--workers", "0"]
        quick = ["--config", "2d", "--encoder", LIGHT, "--weights", "none", "--epochs", "1"]
        quick += ["--memory", "1GB"]
        self._add("plan", data, *local, *quick, "--folds", "2", "--device", "cpu")
        dataset = find_dataset(data)
        made = ball_plan(dataset, "2d", encoder=LIGHT)
        recipe = made.recipe.model_copy(update={"epochs": 2, "steps_per_epoch": 2})
        made.model_copy(update={"recipe": recipe}).save(work.plan)
        self._add("preprocess", *local)
        self._add("train", "0", *local, "--device", "cpu")
        self.run("train", "1", *local, "--device", "cpu")
        self._add("summary", *local)
        maps = self.folder / "maps"
        self._add("predict", *at, "-i", data / "imagesTr", "-o", maps, "--device", "cpu")
        json, csv = (self.folder / "scores" / f"scores.{ending}" for ending in ("json", "csv"))
        self._add("evaluate", maps, data / "labelsTr", *local, "--json", json, "--csv", csv)
        self._add("export", *at, "-o", self.folder / "model.segtl")

    def run(self, *arguments: object, kill: float | None = None) -> Any:
        return self.commands.run(*arguments, prepare=[["save_always"]], kill=kill)

    def _add(self, *arguments: object) -> None:
        name = str(arguments[0])
        before = self.aside / name
        shutil.copytree(self.folder, before)
        ended = self.run(*arguments)
        assert ended.code == 0, ended.text
        self.steps[name] = Step(list(arguments), before, results(self.folder), ended.seconds)

    def kill(self, name: str, moments: random.Random) -> str:
        """Kill a command once at a random moment and run it again; returns when it was killed."""
        step, latest = self.steps[name], self.steps[name].seconds
        for _ in range(MOST_LATE):
            shutil.rmtree(self.folder)
            shutil.copytree(step.before, self.folder)
            moment = moments.uniform(0, latest)
            killed = self.run(*step.arguments, kill=moment)
            if killed.code == -signal.SIGKILL:
                break
            assert killed.code == 0, killed.text
            latest = killed.seconds
        when = f"{name} killed after {moment:.4f} of {latest:.4f} s"
        assert killed.code == -signal.SIGKILL, f"{when}: it had ended"
        again = self.run(*step.arguments)
        assert again.code == 0, f"{when}: {again.text}"
        assert not hidden(self.folder), when
        assert results(self.folder) == step.made, when
        return when


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Scene:
    return Scene(tmp_path_factory.mktemp("kills"), commands)


def kill_often(scene: Scene, name: str, *, seed: int, count: int, tried: Tried) -> None:
    moments = random.Random(f"{name} {seed}")
    for index in range(count):
        tried(f"kills of {name}", 1)
        print(f"seed {seed}, kill {index}: {scene.kill(name, moments)}")


@pytest.mark.parametrize("name", SHARES)
def test_a_killed_command_is_repeated(scene: Scene, name: str, tried: Tried) -> None:
    kill_often(scene, name, seed=0, count=SHARES[name], tried=tried)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARES)
def test_a_command_killed_at_many_moments_is_repeated(scene: Scene, name: str, tried: Tried) -> None:
    kill_often(scene, name, seed=1, count=10 * SHARES[name], tried=tried)


def test_the_numbers_of_kills() -> None:
    assert sum(SHARES.values()) == 20
