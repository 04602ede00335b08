"""Two processes on one work folder, as in two containers: equal process numbers, and nothing lost."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_balls import make_dataset
from made_work import ball_plan

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import find_dataset
from seg_transfer.preprocessing import store as store_module
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.locks import Holder, locked
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")

UNSHARED = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
LOCAL = {"device": "cpu", "workers": 0}


def can_unshare() -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([*UNSHARED, "true"], check=False, capture_output=True, timeout=10).returncode == 0
    return False


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    work = WorkFolder(tmp_path / "work")
    dataset = find_dataset(make_dataset(tmp_path / "balls", cases=4))
    dataset.save(work.dataset)
    made = ball_plan(dataset, "2d")
    recipe = made.recipe.model_copy(update={"epochs": 2, "steps_per_epoch": 2})
    made.model_copy(update={"recipe": recipe}).save(work.plan)
    return work


def start(work: WorkFolder, *command: str, prefix: list[str]) -> subprocess.Popen:
    line = [*prefix, sys.executable, "-m", "seg_transfer", *command, "-w", str(work.path), "--workers", "0"]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def files(folder: Path) -> dict[str, bytes]:
    """All of a store but stamps and digests of times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not can_unshare(), reason="PID namespaces are not allowed here")
def test_two_containers_preprocess_into_one_store(work: WorkFolder) -> None:
    folder = work.store_folder(work.load_plan())
    seg_transfer.preprocess(work=work.path, workers=0)
    expected = files(folder)
    shutil.rmtree(folder)
    processes = [start(work, "preprocess", prefix=UNSHARED) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
    assert files(folder) == expected


def test_temporaries_of_the_living_stay_and_of_the_dead_do_not(work: WorkFolder) -> None:
    plan = work.load_plan()
    folder = seg_transfer.preprocess(work=work.path, workers=0)
    store = Store.open(folder, plan.data)
    expected = files(folder)
    for name in (".0a1b2c3d-ball_0", ".0a1b2c3e-ball_1"):
        (folder / name).mkdir()
        (folder / name / "image.b2nd").touch()
    elsewhere = Holder.this_process().model_copy(update={"namespace": "another boot"})
    (folder / ".ball_0.lock").write_text(elsewhere.model_dump_json())
    dead = Holder.this_process().model_copy(update={"started": 1})
    (folder / ".ball_1.lock").write_text(dead.model_dump_json())
    store.remove_leftovers()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [
        ".0a1b2c3d-ball_0",
        ".ball_0.lock",
    ]
    shutil.rmtree(folder / ".0a1b2c3d-ball_0")
    (folder / ".ball_0.lock").unlink()
    assert files(folder) == expected


def test_a_case_is_made_by_one_process(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process made while this one waited for its lock is taken."""
    plan = work.load_plan()
    folder = seg_transfer.preprocess(work=work.path, workers=0)
    case = Store.open(folder, plan.data).cases()[0]
    shutil.move(folder / case, work.path / "aside")

    @contextlib.contextmanager
    def waited(path: Path, what: str, **options: object):
        with locked(path, what, **options):
            if path.name == f".{case}.lock":
                shutil.move(work.path / "aside", folder / case)
            yield

    monkeypatch.setattr(store_module, "locked", waited)
    number = (work.path / "aside" / "image.b2nd").stat().st_ino
    seg_transfer.preprocess(work=work.path, workers=0)
    assert (folder / case / "image.b2nd").stat().st_ino == number


def test_the_second_training_of_a_fold_says_who_holds_it(work: WorkFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run = work.plan_folder(work.load_plan()).run(0)
    elsewhere = Holder.this_process().model_copy(update={"namespace": "another boot", "host": "node7"})
    run.lock.parent.mkdir(parents=True)
    run.lock.write_text(elsewhere.model_dump_json())
    assert main(["train", "0", "-w", str(work.path), "--workers", "0", "--device", "cpu"]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert f"fold_0 is being trained by process {elsewhere.pid} on node7, since {elsewhere.since}" in shown
    assert "Traceback" not in shown and not run.path.exists()
    seg_transfer.train(1, work=work.path, **LOCAL)  # another fold
    run.lock.unlink()
    seg_transfer.train(0, work=work.path, **LOCAL)
    assert not run.lock.exists()


@pytest.mark.slow  # tests/faults/test_kills.py kills trainings in each run
def test_a_killed_training_is_gone_on_with(work: WorkFolder) -> None:
    plan = work.load_plan()
    recipe = plan.recipe.model_copy(update={"epochs": 10_000})
    plan.model_copy(update={"recipe": recipe}).save(work.plan)
    run = work.plan_folder(work.load_plan()).run(0)
    process = start(work, "train", "0", "--device", "cpu", prefix=[])
    deadline = time.monotonic() + 120
    while not run.log.is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert run.lock.is_file()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (run.path / ".segtl-0123456789abcdef-resume.safetensors").write_bytes(bytes(9))
    (result,) = seg_transfer.train(0, work=work.path, epochs=2, **LOCAL)
    assert result.scores is not None and run.validated
    assert [path.name for path in run.path.rglob(".*")] == [] and not run.lock.exists()
    assert np.isfinite(result.scores.mean_dice)
