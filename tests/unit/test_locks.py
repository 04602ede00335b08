"""Locks as files: who holds one, and that the dead hold none; two processes with equal numbers are two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util import locks
from seg_transfer.util.locks import Holder, check_held, locked

HOLD = """
import sys, time
from pathlib import Path
from seg_transfer.util.locks import locked
with locked(Path(sys.argv[1]), "it is used"):
    print("held", flush=True)
    time.sleep(120)
"""
UNSHARED = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
Hold = Callable[..., subprocess.Popen]


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARED, "true"], check=False, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "thing.lock"


@pytest.fixture
def hold(lock: Path) -> Iterator[Hold]:
    """Start a process that holds the lock."""
    started = []

    def start(*prefix: str) -> subprocess.Popen:
        command = [*prefix, sys.executable, "-c", HOLD, str(lock)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def age(lock: Path, seconds: float) -> None:
    os.utime(lock, (time.time() - seconds,) * 2)


def test_a_lock_is_one_file_that_is_gone_afterwards(lock: Path) -> None:
    with locked(lock, "it is used"):
        holder = Holder.model_validate_json(lock.read_bytes())
        assert holder.pid == os.getpid() and holder.alive
        check_held(lock)
    assert list(lock.parent.iterdir()) == []
    check_held(lock)


def test_the_second_is_told_who_holds_it(lock: Path, hold: Hold) -> None:
    process = hold()
    told = rf"it is used by process {process.pid} on .*, since 2\d\d\d-"
    with pytest.raises(UserError, match=told) as error, locked(lock, "it is used"):
        pass
    assert error.value.where == lock
    age(lock, 1e6)  # its process lives, so its age does not matter
    with pytest.raises(UserError), locked(lock, "it is used"):
        pass


def test_one_process_cannot_hold_it_twice(lock: Path) -> None:
    with locked(lock, "it is used"), pytest.raises(UserError), locked(lock, "it is used"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over_at_once(lock: Path, hold: Hold) -> None:
    process = hold()
    process.kill()  # not waited for: a zombie holds nothing
    time.sleep(0.2)
    with locked(lock, "it is used"):
        pass
    process.wait()
    assert list(lock.parent.iterdir()) == []


def test_who_waits_gets_it_after_the_other(
    lock: Path, hold: Hold, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "seg_transfer")
    process = hold()
    monkeypatch.setattr(locks.time, "sleep", lambda _: process.kill())
    with locked(lock, "it is used", wait=True):
        assert f"waiting: it is used by process {process.pid}" in caplog.text


def elsewhere(lock: Path, **change: object) -> None:
    """A lock of a process with this process's number, in another PID namespace."""
    content = Holder.this_process().model_dump() | {"namespace": "another boot"} | change
    lock.write_text(json.dumps(content))


def test_an_equal_process_number_elsewhere_is_another_process(lock: Path) -> None:
    elsewhere(lock, host="node7")
    with pytest.raises(UserError, match=f"process {os.getpid()} on node7"), locked(lock, "it is used"):
        pass
    assert lock.is_file()


@pytest.mark.parametrize("seconds", [locks.DEAD_AFTER + 5, -locks.DEAD_AFTER - 5], ids=["silent", "clock set back"])
def test_who_was_silent_too_long_is_dead(lock: Path, seconds: float) -> None:
    elsewhere(lock)
    age(lock, seconds)
    with locked(lock, "it is used"):
        pass
    assert list(lock.parent.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"pid": 0}'])
def test_a_damaged_lock_counts_by_its_age(lock: Path, content: str) -> None:
    lock.write_text(content)
    with pytest.raises(UserError, match="by another process"), locked(lock, "it is used"):
        pass
    age(lock, locks.DEAD_AFTER + 5)
    with locked(lock, "it is used"):
        pass


def test_a_number_that_was_given_again_is_not_the_holder(lock: Path) -> None:
    holder = Holder.this_process()
    if holder.started is None:
        pytest.skip("starts of processes are not known here")
    lock.write_text(holder.model_copy(update={"started": holder.started - 1}).model_dump_json())
    with locked(lock, "it is used"):
        pass


def test_a_lock_is_refreshed(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "REFRESH", 0.05)
    with locked(lock, "it is used"):
        age(lock, 1e6)
        time.sleep(0.5)
        assert abs(lock.stat().st_mtime - time.time()) < 60


def test_who_lost_a_lock_is_told_and_leaves_it(lock: Path) -> None:
    with locked(lock, "it is used"):
        elsewhere(lock, host="node7")
        with pytest.raises(UserError, match=r"taken over by process .* on node7"):
            check_held(lock)
    assert lock.is_file()


def test_a_takeover_of_another_process_is_waited_for(lock: Path) -> None:
    """Its guard file is there: it may have judged the same lock dead, and may be about to take it."""
    elsewhere(lock)
    age(lock, locks.DEAD_AFTER + 5)
    before = lock.read_bytes()
    guard = lock.with_name("thing.lock.takeover")
    guard.touch()
    locks._remove_stale(lock, before)
    assert lock.read_bytes() == before and guard.is_file()
    age(guard, locks.DEAD_AFTER + 5)
    with locked(lock, "it is used"):
        pass
    assert list(lock.parent.iterdir()) == []


@pytest.mark.skipif(not can_unshare(), reason="PID namespaces are not allowed here")
def test_processes_of_two_containers_have_the_same_number(lock: Path, hold: Hold) -> None:
    hold(*UNSHARED)
    first = Holder.model_validate_json(lock.read_bytes())
    assert first.alive is None
    command = [*UNSHARED, sys.executable, "-c", HOLD, str(lock)]
    second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert f"it is used by process {first.pid} on" in second.stderr
    pids = [subprocess.run([*UNSHARED, sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)]
    assert int(pids[0].stdout) == first.pid
    assert Holder.model_validate_json(lock.read_bytes()) == first
