from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from seg_transfer.cli.console import log_tracebacks
from seg_transfer.errors import UserError
from seg_transfer.util.parallel import CaseFailure, map_cases


def half(number: int) -> int:
    if number == 3:
        raise UserError("3 is odd", where="file.nii", hint="use 4")
    if number == 5:
        raise RuntimeError("five\nis odd too")
    return number // 2


def leave_a_mark(number: int, folder: Path) -> int:
    """The most tasks that were seen under way while this one was."""
    mark = folder / str(number)
    mark.touch()
    most = 0
    for _ in range(5):
        most = max(most, len(list(folder.iterdir())))
        time.sleep(0.01)
    mark.unlink()
    return most


@pytest.mark.parametrize("workers", [0, 2])
def test_failures_are_named_and_the_others_go_on(workers: int) -> None:
    results = dict(map_cases(half, range(8), workers=workers, title="halving", name=lambda n: f"case {n}"))
    assert {n: r for n, r in results.items() if n not in (3, 5)} == {0: 0, 1: 0, 2: 1, 4: 2, 6: 3, 7: 3}
    three, five = results[3], results[5]
    assert isinstance(three, CaseFailure)
    assert isinstance(five, CaseFailure)
    assert (three.case, three.cause) == ("case 3", "file.nii: 3 is odd; hint: use 4")
    assert (five.case, five.cause) == ("case 5", "RuntimeError: five; is odd too")


class Unsendable(Exception):
    """Neither it nor what it holds can be sent between processes."""

    def __init__(self, reason: str, *, needed: object) -> None:
        super().__init__(reason)
        self.lock = threading.Lock()


def end_in_many_ways(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # what the system does when memory runs out
    if number == 2:
        os._exit(9)
    if number == 3:
        raise Unsendable("cannot be sent", needed=1)
    if number == 4:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2**30, hard))
        try:
            np.ones(2**30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    if number == 5:
        ctypes.string_at(0)
    if number == 6:
        sys.exit("enough")
    return number


def test_however_a_worker_ends_its_case_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    place = tmp_path / "work" / "segtl.log"
    log_tracebacks(place)
    try:
        results = list(map_cases(end_in_many_ways, range(10), workers=2, title="ending", name="case {}".format))
    finally:
        log_tracebacks(None)
    assert sorted(item for item, _ in results) == list(range(10))
    failed = {item: result for item, result in results if isinstance(result, CaseFailure)}
    assert {item: result.case for item, result in failed.items()} == {n: f"case {n}" for n in range(1, 7)}
    assert {item: result for item, result in results if item not in failed} == {0: 0, 7: 7, 8: 8, 9: 9}
    where = f"; its traceback is in {place}"
    assert failed[1].cause == "its process died: it was killed, probably since memory ran out; use fewer workers"
    assert failed[2].cause == "its process died: exit code 9"
    assert failed[3].cause == "Unsendable: cannot be sent" + where
    assert failed[4].cause.startswith("memory ran out (Unable to allocate 8.00 GiB") and "hint:" in failed[4].cause
    assert failed[5].cause == "its process died: SIGSEGV" + where
    assert failed[6].cause == "SystemExit: enough" + where
    text = place.read_text(encoding="utf-8")
    for item in (3, 5, 6):
        entry = text.split(f" ending: case {item}\n")[1].split(" ending: case ")[0]
        assert "in end_in_many_ways" in entry
    assert text.count(" ending: case ") == 3


def write_own_number_and_wait(number: int, folder: Path) -> None:
    written = folder / f"{number}.tmp"
    written.write_text(str(os.getpid()))
    written.rename(folder / str(number))
    time.sleep(600)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, and waits for its parent to notice


def start_workers(folder: Path) -> None:
    work = partial(write_own_number_and_wait, folder=folder)
    list(map_cases(work, range(2), workers=2, title="waiting", name=str))


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks processes up in /proc")
def test_workers_of_a_killed_process_end(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=start_workers, args=(tmp_path,))
    parent.start()
    written = [tmp_path / "0", tmp_path / "1"]
    try:
        wait_until(lambda: all(path.is_file() for path in written))
        workers = [int(path.read_text()) for path in written]
        assert all(map(is_running, workers))
    finally:
        parent.kill()
        parent.join()
    try:
        wait_until(lambda: not any(map(is_running, workers)))
    finally:
        for worker in filter(is_running, workers):
            os.kill(worker, signal.SIGKILL)


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to hold within a minute")


def test_a_users_mistake_needs_no_traceback(tmp_path: Path) -> None:
    log_tracebacks(tmp_path / "segtl.log")
    try:
        results = dict(map_cases(half, [3], workers=0, title="halving", name=str))
    finally:
        log_tracebacks(None)
    assert results[3].cause == "file.nii: 3 is odd; hint: use 4"
    assert list(tmp_path.iterdir()) == []


def shared_memory_of_this_process(size: int) -> list[str]:
    """Mapped files of the system's shared memory, semaphores left out, after work of this size."""
    assert np.ones(size).sum() == size
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return [line for line in maps if "/dev/shm/" in line and "/dev/shm/sem." not in line]


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="this system does not tell what is mapped")
def test_workers_need_no_shared_memory() -> None:
    results = map_cases(shared_memory_of_this_process, [10**6] * 3, workers=2, title="looking", name=str)
    assert [mapped for _, mapped in results] == [[], [], []]
    assert shared_memory_of_this_process(1) == []


def test_no_more_than_workers_at_a_time(tmp_path: Path) -> None:
    work = partial(leave_a_mark, folder=tmp_path)
    most = [result for _, result in map_cases(work, range(8), workers=2, title="marking", name=str)]
    assert len(most) == 8
    assert max(most) <= 2


def test_in_this_process_it_is_lazy_and_in_order() -> None:
    seen: list[int] = []
    results = map_cases(seen.append, [1, 2, 3], workers=0, title="seeing", name=str)
    next(results)
    assert seen == [1]
    assert [item for item, _ in results] == [2, 3]


def test_nothing_to_do() -> None:
    assert list(map_cases(half, [], workers=2, title="nothing", name=str)) == []


@pytest.mark.parametrize("from_standard_input", [False, True])
def test_a_script_without_a_main_guard_is_not_run_again_in_workers(tmp_path: Path, from_standard_input: bool) -> None:
    text = """
from seg_transfer.util.parallel import map_cases
print("begun")
print(sorted(result for _, result in map_cases(abs, [-1, -2, -3], workers=2, title="", name=str)))
"""
    script = tmp_path / "script.py"
    script.write_text(text)
    command = [sys.executable, "-" if from_standard_input else str(script)]
    done = subprocess.run(command, input=text if from_standard_input else None, capture_output=True, text=True)
    assert done.stdout == "begun\n[1, 2, 3]\n", done.stderr
