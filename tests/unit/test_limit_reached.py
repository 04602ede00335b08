"""Which errors count as a limit of the machine, whatever library meets it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from seg_transfer.errors import UserError
from seg_transfer.util import locks
from seg_transfer.util.disk_space import DiskFull
from seg_transfer.util.limits import LimitReached, limit_reached
from seg_transfer.util.parallel import map_cases

FILES, PROCESSES, MEMORY = "too many files are open", "no more processes or threads", "memory ran out"


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (system(errno.EMFILE), FILES),
        (system(errno.ENFILE), FILES),
        (RuntimeError("unable to open file a.bin: Too many open files"), FILES),
        (system(errno.EAGAIN), PROCESSES),
        (RuntimeError("can't start new thread"), PROCESSES),
        (system(errno.ENOMEM), MEMORY),
        (MemoryError(), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), MEMORY),
        (RuntimeError("could not create a primitive"), MEMORY),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), MEMORY),
        (caused(ValueError("cannot be sent"), MemoryError()), MEMORY),
    ],
)
def test_limits(error: Exception, message: str) -> None:
    reached = limit_reached(error)
    assert isinstance(reached, UserError) and message in str(reached) and "hint: " in str(reached)
    assert isinstance(reached, LimitReached) == (message != MEMORY)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("can't start new thread"),
        RuntimeError("sizes of tensors must match"),
        ImportError("No module named 'onnx'"),
        system(errno.ENOENT),
        KeyError("out of memory"),
    ],
)
def test_defects_and_other_errors(error: Exception) -> None:
    assert limit_reached(error) is None


def start_a_thread(case: int) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_limit_that_every_case_meets_ends_the_work(workers: int) -> None:
    with pytest.raises(LimitReached, match=PROCESSES):
        list(map_cases(start_a_thread, range(3), workers=workers, title="starting", name=str))


def test_a_lock_that_could_be_written_in_part_only_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write

    def nearly_full(descriptor: int, content: bytes) -> int:
        if len(content) < 50:
            raise system(errno.ENOSPC)
        return written(descriptor, content[:50])

    monkeypatch.setattr(locks.os, "write", nearly_full)
    with pytest.raises(DiskFull, match="the disk is full"), locks.locked(tmp_path / "a.lock", "it is used"):
        raise AssertionError("it is not held")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_thread_cannot_start_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.threading.Thread, "start", start_a_thread)
    with pytest.raises(RuntimeError), locks.locked(tmp_path / "a.lock", "it is used"):
        raise AssertionError("it is not held")
    assert list(tmp_path.iterdir()) == [] and not locks._held
