"""Cases measured, preprocessed and scored on a cluster of Dask: a real scheduler and real workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from made_balls import make_dataset
from made_clusters import Processes, in_this_process

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.errors import UserError
from seg_transfer.util import cluster as module

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
LOCAL = {"device": "cpu", "strategy": "gradual"}


def whole(folder: Path) -> dict[str, bytes]:
    """Content of every file of a work folder, but for its log and the data set's stamp, which has times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if not path.name.startswith(".")}


def prepare(data: Path, work: Path, **options: object) -> dict[str, bytes]:
    seg_transfer.plan(data, work=work, **LOCAL, **options)
    seg_transfer.preprocess(work=work, **options)
    return whole(work)


def test_the_result_is_that_of_this_machine(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "balls", cases=5)
    broken = data / "labelsTr" / "case_2.nii.gz"
    expected = prepare(data, tmp_path / "local", workers=0)
    with in_this_process(workers=2) as started:
        address = started.scheduler_address
        assert prepare(data, tmp_path / "far", cluster=address) == expected
        labels = shutil.copytree(data / "labelsTr", tmp_path / "predictions")
        near = seg_transfer.evaluate(labels, data / "labelsTr", workers=0)
        assert seg_transfer.evaluate(labels, data / "labelsTr", cluster=address) == near
        broken.write_bytes(b"no image")
        with pytest.raises(UserError, match=broken.name):
            seg_transfer.plan(data, work=tmp_path / "far", cluster=address, **LOCAL)
    assert module.client() is None


def test_no_scheduler_and_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CONNECT", 0.5)
    data = make_dataset(tmp_path / "balls", cases=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for address in (closed, "nonsense://here", "tcp://127.0.0.1"):
        assert main(["plan", str(data), "-w", str(tmp_path / "work"), "--cluster", address]) == 2
        told = capsys.readouterr().err
        assert address in told and "dask scheduler" in told and "Traceback" not in told
    with (
        in_this_process(workers=0) as started,
        pytest.raises(UserError, match="has no worker"),
    ):
        seg_transfer.plan(data, work=tmp_path / "work", cluster=started.scheduler_address)
    assert not (tmp_path / "work" / "plan.json").exists()


def when_cases_are_there(work: Path, done: Callable[[], None]) -> threading.Thread:
    """Do something once three cases are preprocessed."""

    def watch() -> None:
        deadline = time.monotonic() + 100
        while len(list(work.glob("preprocessed/*/*/case.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        done()

    watching = threading.Thread(target=watch)
    watching.start()
    return watching


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["kill", "pause", "leave"])
def test_a_worker_that_is_gone_loses_nothing(harm: str, tmp_path: Path, processes: Processes) -> None:
    data = make_dataset(tmp_path / "balls", cases=24)
    expected = prepare(data, tmp_path / "local", workers=2)
    address = processes.start()
    done: Callable[[], None] = {
        "kill": lambda: processes.workers[0].kill(),
        "pause": lambda: processes.workers[0].send_signal(signal.SIGSTOP),
        "leave": lambda: processes.workers[0].terminate(),
    }[harm]
    seg_transfer.plan(data, work=tmp_path / "far", cluster=address, **LOCAL)

    harming = when_cases_are_there(tmp_path / "far", done)
    going_on = threading.Timer(30, lambda: processes.workers[0].send_signal(signal.SIGCONT))
    if harm == "pause":  # longer than the scheduler waits; meanwhile it holds the lock of its case
        going_on.start()
    folder = seg_transfer.preprocess(work=tmp_path / "far", cluster=address)
    harming.join()
    going_on.cancel()
    processes.workers[0].send_signal(signal.SIGCONT)
    time.sleep(1)  # what it was doing is done again, and its late result changes nothing
    assert len([path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]) == 24
    assert whole(tmp_path / "far") == expected


@pytest.mark.slow
def test_the_scheduler_may_restart_between_commands_but_not_within(tmp_path: Path, processes: Processes) -> None:
    data = make_dataset(tmp_path / "balls", cases=60)
    expected = prepare(data, tmp_path / "local", workers=2)
    seg_transfer.plan(data, work=tmp_path / "far", cluster=processes.start(), **LOCAL)
    processes.stop()
    address = processes.start()
    ending = when_cases_are_there(tmp_path / "far", processes.running[0].kill)
    with pytest.raises(UserError, match="scheduler was lost"):
        seg_transfer.preprocess(work=tmp_path / "far", cluster=address)
    ending.join()
    processes.stop()
    seg_transfer.preprocess(work=tmp_path / "far", cluster=processes.start())
    assert whole(tmp_path / "far") == expected


@pytest.mark.slow
def test_a_case_that_kills_its_workers_is_named(tmp_path: Path, processes: Processes) -> None:
    address = processes.start(5)
    with distributed.Client(address) as client:
        harmless, deadly = partial(pow, 3, 1), partial(os._exit, 1)
        found = dict(module.completed([harmless, deadly], client))
    assert found[harmless] == 3 and isinstance(found[deadly], module.WorkerDied)


def test_no_more_is_on_the_way_than_the_workers_need() -> None:
    most, now, asked, lock = 0, 0, 0, threading.Lock()

    class Counted:
        def __call__(self) -> int:
            return 1

    tasks = [Counted() for _ in range(200)]
    with (
        in_this_process(workers=1, threads=2) as started,
        distributed.Client(started.scheduler_address) as client,
    ):
        submit = client.submit

        def noted(*arguments: object, **options: object) -> object:
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            return submit(*arguments, **options)

        nthreads = client.nthreads

        def counted() -> object:
            nonlocal asked
            asked += 1
            return nthreads()

        client.submit, client.nthreads = noted, counted
        for _task, result in module.completed(tasks, client):
            assert result == 1
            with lock:
                now -= 1
    assert 2 < most <= 2 * module.AHEAD + 1
    assert asked < 100  # not for each of the 200 tasks, which takes longer than a small one
