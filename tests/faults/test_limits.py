"""Low limits of the account and folders that may not be written to: one message, exit code 2, nothing half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from commands import Commands, Tried, hidden, results
from made_balls import make_dataset
from made_work import LIGHT, add_run, ball_plan, make_work

from seg_transfer.data.dataset import Dataset

NOBODY = 65534
SHOWN = ["--pictures", "--uncertainty"]
NAMES = ["plan", "preprocess", "train", "summary", "predict", "evaluate", "export"]


@dataclass
class Scene:
    """A data set and a work folder with trained folds, where every user may read and write."""

    folder: Path
    commands: Commands

    def __post_init__(self) -> None:
        self.data, self.work, self.out = self.folder / "balls", self.folder / "work", self.folder / "out"

    def arguments(self, name: str, *, workers: int = 0) -> list[object]:
        work, out = ["-w", self.work], self.out
        local = [*work, "--workers", str(workers)]
        cpu = ["--device", "cpu"]
        if name == "plan":
            quick = ["--config", "2d", "--encoder", LIGHT, "--weights", "none", "--epochs", "1"]
            quick += ["--memory", "1GB"]
            return [name, self.data, *local, *cpu, *quick, "--folds", "2"]
        return {
            "preprocess": [name, *local],
            "train": [name, "0", *local, *cpu],
            "summary": [name, *local],
            "predict": [name, *local, *cpu, "-i", self.data / "imagesTr", "-o", out / "maps", *SHOWN],
            "evaluate": [name, self.data / "labelsTr", self.data / "labelsTr", *local, "--json", out / "scores.json"],
            "export": [name, *work, "-o", out / "model.segtl"],
            "status": [name, *work],
        }[name]


def open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Iterator[Scene]:
    """Not below pytest's folder, which only its owner may enter."""
    scene = Scene(Path(mkdtemp()), commands)
    scene.folder.chmod(0o777)
    data = make_dataset(scene.data)
    work = make_work(scene.work, data)
    plan = ball_plan(Dataset.load(work.dataset), "2d", encoder=LIGHT, decoder_channels=(8, 384))  # a tensor of 5 MB
    add_run(work, plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"steps_per_epoch": 2})}))
    scene.out.mkdir()
    commands.succeeds(*scene.arguments("preprocess"))
    shutil.copytree(scene.folder, scene.folder / "before")
    yield scene
    shutil.rmtree(scene.folder)


@pytest.fixture
def scene(made: Scene) -> Scene:
    for path in (made.data, made.work, made.out):
        shutil.rmtree(path)
        shutil.copytree(made.folder / "before" / path.name, path)
        open_to_all(path)
    return made


def survives(scene: Scene, name: str, prepare: list[list[Any]]) -> bool:
    """Whether the command succeeds; if it does not, one message says why, nothing is half-written, and then it does."""
    if name == "preprocess":
        shutil.rmtree(scene.work / "preprocessed")
    before = results(scene.folder)
    ended = scene.commands.run(*scene.arguments(name), prepare=[["save_always"], *prepare])
    assert ended.code in (0, 2) and "Traceback" not in ended.text, ended.text
    # A process that can open no file cannot see whether a lock is still its own, and leaves it to the next one.
    assert not [path for path in hidden(scene.folder) if path.suffix != ".lock"], ended.text
    if ended.code == 0:
        return True
    assert ended.text.count("hint: ") == 1 or "problem(s) in" in ended.text, ended.text  # each file's has its own
    if name not in ("train", "preprocess", "predict", "summary"):  # which keep the files that they have finished
        after = results(scene.folder)
        if name == "plan":  # whose measurements are written before the plan
            after["work/fingerprint.json"] = before.get("work/fingerprint.json")
            before.setdefault("work/fingerprint.json", None)
        assert after == before
    scene.commands.succeeds(*scene.arguments(name), prepare=[["save_always"]])
    assert not hidden(scene.folder)
    return False


LIMITS: dict[str, list[list[Any]]] = {
    "64 open files": [["limit", "NOFILE", 64]],
    "9 open files": [["limit", "NOFILE", 9]],
    "5 open files": [["limit", "NOFILE", 5]],
    "files of 100 bytes": [["limit", "FSIZE", 100]],
    "empty files": [["limit", "FSIZE", 0]],
    "4 MB of memory": [["memory_left", 4 * 10**6]],
    "one process": [["limit", "NPROC", 1], ["user", NOBODY]],
}
REFUSED = {
    "64 open files": "",
    "9 open files": "",
    "5 open files": "train",
    "files of 100 bytes": "plan preprocess train summary predict evaluate export",
    "empty files": "plan preprocess train summary predict evaluate export",
    "4 MB of memory": "train",
    "one process": "train",
}
"""The commands that cannot succeed; of others one may, on a machine with other libraries."""


def check_limit(scene: Scene, name: str, limit: str, tried: Tried) -> None:
    if limit == "one process" and os.geteuid():
        pytest.skip("only root can become a user without processes")
    succeeded = survives(scene, name, LIMITS[limit])
    assert not succeeded or name not in REFUSED[limit].split()
    assert succeeded or limit != "64 open files"
    tried(f"low limits: {limit}", 1)


QUICKLY = [("64 open files", "plan"), ("5 open files", "train"), ("files of 100 bytes", "plan")]
QUICKLY += [("4 MB of memory", "train")]


@pytest.mark.parametrize(("limit", "name"), QUICKLY)
def test_low_limits(scene: Scene, limit: str, name: str, tried: Tried) -> None:
    check_limit(scene, name, limit, tried)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", LIMITS)
def test_low_limits_of_every_command(scene: Scene, limit: str, name: str, tried: Tried) -> None:
    check_limit(scene, name, limit, tried)


WRITERS = {"data": [], "work": ["plan", "preprocess", "train", "summary"], "out": ["predict", "evaluate", "export"]}
"""Folder -> the commands that write into it."""


def check_read_only(scene: Scene, part: str, name: str, how: str, tried: Tried) -> None:
    folder: Path = getattr(scene, part)
    prepare: list[list[Any]] = [["read_only", str(folder)]]
    if name == "preprocess":
        shutil.rmtree(scene.work / "preprocessed")
    if how == "permissions":
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        prepare = [] if os.geteuid() else [["user", NOBODY]]
    before = results(scene.folder)
    ended = scene.commands.run(*scene.arguments(name), prepare=[["save_always"], *prepare])
    if name in WRITERS[part]:
        assert ended.code == 2 and "may not be written to" in ended.text and ended.text.count("hint: ") == 1, ended.text
        assert results(scene.folder) == before
    else:
        assert ended.code == 0, ended.text
    assert "Traceback" not in ended.text and not hidden(scene.folder)
    tried(f"read-only: {part}", 1)


@pytest.mark.parametrize(
    ("part", "name"), [("data", "plan"), ("work", "train"), ("work", "predict"), ("out", "predict")]
)
def test_read_only(scene: Scene, part: str, name: str, tried: Tried) -> None:
    check_read_only(scene, part, name, "mount", tried)


@pytest.mark.parametrize("name", ["overlays", "uncertainty"])
def test_read_only_folders_beside_label_maps(scene: Scene, name: str, tried: Tried) -> None:
    folder = scene.out / "maps" / name
    folder.mkdir(parents=True)
    before = results(scene.folder)
    prepare = [["read_only", str(folder)]]
    scene.commands.fails(*scene.arguments("predict"), prepare=prepare, saying=f"{folder} may not be written to")
    assert results(scene.folder) == before
    tried("read-only: out", 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "status"])
@pytest.mark.parametrize("part", WRITERS)
@pytest.mark.parametrize("how", ["mount", "permissions"])
def test_read_only_for_every_command(scene: Scene, part: str, name: str, how: str, tried: Tried) -> None:
    check_read_only(scene, part, name, how, tried)
