"""Work that is one task per case, on the cores of one machine.

A case that fails, even one whose process dies, is reported with its cause and the others go on. Tracebacks go to the
logger :data:`TRACEBACKS`. Processes talk through pipes, since containers have little shared memory.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from seg_transfer.errors import UserError
from seg_transfer.util.progress import track

TRACEBACKS = "seg_transfer.tracebacks"
"""Name of the logger of tracebacks, so that they can have a file of their own."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class CaseFailure:
    """Why a case is not done.

    Attributes:
        case: The case's name.
        cause: One line for the user; names the file that the traceback is in, if :data:`TRACEBACKS` has one.
        detail: The traceback; empty if the process was killed from outside.
    """

    case: str
    cause: str
    detail: str


@dataclass(frozen=True)
class _Raised:
    """What the function raised; as text, since not every exception can be sent between processes.

    ``unexpected`` is what is not the user's mistake, so that a traceback helps.
    """

    cause: str
    detail: str
    unexpected: bool = True

    @classmethod
    def of(cls, error: BaseException) -> _Raised:
        expected = isinstance(error, UserError)
        cause = str(error) if expected else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        return cls("; ".join(map(str.strip, cause.splitlines())), trace, not expected)


@dataclass(frozen=True)
class _Call(Generic[T, R]):
    """What a process needs to know to do one item."""

    function: Callable[[T], R]
    item: T

    def __call__(self) -> R | _Raised:
        try:
            return self.function(self.item)
        except (Exception, SystemExit) as error:
            return _Raised.of(error)


def map_cases(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    title: str,
    name: Callable[[T], str],
) -> Iterator[tuple[T, R | CaseFailure]]:
    """Apply a function to every case and show the progress.

    Args:
        function: Called with one item; must be importable by name (or a ``functools.partial`` of such a function) if
            there are workers, since they are spawned, and not from the script that runs.
        items: One per case.
        workers: Processes; 0 works in this one. No more than this many cases are in memory at a time.
        title: What the user reads beside the progress.
        name: The case's name, used if it fails.

    Yields:
        Each item with its result, in the order in which they are done; :class:`CaseFailure` where the function
        raised or its process died (which happens when memory runs out).
    """
    tasks = [_Call(function, item) for item in items]
    results = _in_processes(tasks, workers) if workers else ((task, task()) for task in tasks)
    for task, result in track(results, total=len(tasks), title=title):
        if isinstance(result, _Raised):
            yield task.item, _failure(name(task.item), result, title)
        else:
            yield task.item, result


def report_failure(case: str, error: Exception, *, title: str) -> CaseFailure:
    """Note what was raised by work that is not done through :func:`map_cases`."""
    return _failure(case, _Raised.of(error), title)


def _failure(case: str, raised: _Raised, title: str) -> CaseFailure:
    cause = raised.cause
    if raised.unexpected and raised.detail:
        logger = logging.getLogger(TRACEBACKS)
        logger.error(f"{title}: {case}\n{raised.detail.rstrip()}")
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                cause += f"; its traceback is in {handler.baseFilename}"
    return CaseFailure(case, cause, raised.detail)


def _in_processes(tasks: list[_Call[T, R]], workers: int) -> Iterator[tuple[_Call[T, R], R | _Raised]]:
    waiting = deque(tasks)
    while waiting:
        interrupted: list[_Call[T, R]] = []
        yield from _until_broken(waiting, workers, interrupted)
        # A pool does not say whose process died: each case that was under way then gets one of its own.
        for task in interrupted:
            yield task, _run_isolated(task)


def _until_broken(
    waiting: deque[_Call[T, R]], workers: int, interrupted: list[_Call[T, R]]
) -> Iterator[tuple[_Call[T, R], R | _Raised]]:
    """Work until nothing waits or a process dies; ``interrupted`` are then the tasks that were under way."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=end_with_parent)
    running: dict[Future[R | _Raised], _Call[T, R]] = {}
    broken = False
    try:
        while True:
            while waiting and len(running) < workers and not broken:
                try:
                    with _without_main_module():  # the first submission starts the processes
                        running[pool.submit(waiting[0])] = waiting[0]
                except BrokenProcessPool:
                    broken = True
                else:
                    waiting.popleft()
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    broken = True
                    interrupted.append(task)
                else:
                    yield task, result
    finally:
        pool.shutdown(cancel_futures=True)


def _run_isolated(task: _Call[T, Any]) -> Any:
    """Do one task in a process whose end is watched."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, receiver:
        trace = Path(folder) / "trace"
        process = context.Process(target=_send, args=(task, sender, trace))
        with _without_main_module():
            process.start()
        sender.close()  # or the process's end would not be noticed here
        try:
            return receiver.recv()
        except EOFError:
            process.join()
            return _Raised(_death(process.exitcode or 0), trace.read_text(encoding="utf-8") if trace.is_file() else "")
        finally:
            process.kill()
            process.join()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Start processes without the script that called: they need nothing of it, and spawn would run it in each.

    That ends badly for a script without ``if __name__ == "__main__"`` and for one read from standard input.
    """
    caller = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = caller


def _send(task: _Call[T, Any], sender: Connection, trace: Path) -> None:
    end_with_parent()
    with trace.open("w", encoding="utf-8") as file:
        faulthandler.enable(file)
        sender.send(task())


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process died: it was killed, probably since memory ran out; use fewer workers"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process died: {how}"


def end_with_parent() -> None:
    """Let this worker end when the process that started it does, even one that is killed.

    A pool's workers would wait for work for ever, and finish what nobody reads. Ctrl-C reaches them as well; without
    this each would show a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker only"
    parent.join()
    os._exit(1)
