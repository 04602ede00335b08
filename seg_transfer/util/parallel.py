"""Work that is one task per case, in worker processes on this machine, or on a cluster.

A case that fails, even one whose process dies, is reported with its cause, and the other cases continue. Tracebacks go
to the logger :data:`~seg_transfer.util.progress.TRACEBACKS`. Processes communicate through pipes, since containers have
little shared memory.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from seg_transfer.errors import EveryCaseFails, UserError
from seg_transfer.util import cluster
from seg_transfer.util.limits import limit_reached
from seg_transfer.util.progress import TRACEBACKS, track
from seg_transfer.util.signals import ENDING
from seg_transfer.util.starting import starting_process

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class CaseFailure:
    """Why a case failed.

    Attributes:
        case: The case's name.
        cause: One line for the user; names the file with the traceback, if :data:`TRACEBACKS` has one.
    """

    case: str
    cause: str


@dataclass(frozen=True)
class _Error:
    """An exception as text, since not every exception can be sent between processes.

    Attributes:
        cause: One line.
        trace: The traceback; empty for a :class:`UserError`, for a limit, and if the process was killed from outside.
    """

    cause: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> _Error:
        """Turn an exception into text; one that the other cases would meet too is raised."""
        error = limit_reached(error) or error
        if isinstance(error, EveryCaseFails):
            raise error
        expected = isinstance(error, UserError)
        cause = str(error) if expected else f"{type(error).__name__}: {error}"
        trace = "" if expected else "".join(traceback.format_exception(error))
        return cls("; ".join(map(str.strip, cause.splitlines())), trace)


class _Stopped(SystemExit):
    """A worker was told to end: what it was writing is removed on the way out, and no traceback is shown."""


@dataclass(frozen=True, slots=True)
class _Task(Generic[T, R]):
    function: Callable[[T], R]
    item: T

    def __call__(self) -> R | _Error:
        try:
            return self.function(self.item)
        except _Stopped:
            raise
        except (Exception, SystemExit) as error:
            return _Error.of(error)


def map_cases(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    title: str,
    name: Callable[[T], str],
) -> Iterator[tuple[T, R | CaseFailure]]:
    """Apply a function to every case and show the progress; within :func:`~.cluster.on_cluster` on the cluster.

    Args:
        function: Called with one item. With workers, which are spawned, it must be importable by name from a module
            other than ``__main__``, or a ``functools.partial`` of such a function.
        items: One per case.
        workers: Processes on this machine; 0 works in this one. At most this many cases are in memory at a time.
        title: Shown beside the progress.
        name: Item -> name of the case, for failures.

    Yields:
        Each item with its result, in order of completion; :class:`CaseFailure` where the function raised or its process
        died, which happens when memory runs out.

    Raises:
        EveryCaseFails: As soon as a case finds the disk full, no more files or processes, or a package missing.
    """
    tasks = [_Task(function, item) for item in items]
    results: Iterator[tuple[_Task[T, R], R | _Error]]
    if (client := cluster.client()) is not None:
        results = _on_cluster(tasks, client)
    elif workers:
        results = _in_processes(tasks, workers)
    else:
        results = ((task, task()) for task in tasks)
    for task, result in track(results, total=len(tasks), title=title):
        if isinstance(result, _Error):
            yield task.item, _failure(name(task.item), result, title)
        else:
            yield task.item, result


def report_failure(case: str, error: Exception, *, title: str) -> CaseFailure:
    """Log an exception of work that does not go through :func:`map_cases`.

    Raises:
        EveryCaseFails: If the other cases would fail too.
    """
    return _failure(case, _Error.of(error), title)


def _failure(case: str, error: _Error, title: str) -> CaseFailure:
    cause = error.cause
    if error.trace:
        logger = logging.getLogger(TRACEBACKS)
        logger.error(f"{title}: {case}\n{error.trace.rstrip()}")
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                cause += f"; its traceback is in {handler.baseFilename}"
    return CaseFailure(case, cause)


def _on_cluster(tasks: list[_Task[T, R]], client: Client) -> Iterator[tuple[_Task[T, R], R | _Error]]:
    for task, result in cluster.completed(tasks, client):
        yield task, _Error(str(result), "") if isinstance(result, cluster.WorkerDied) else result  # type: ignore[misc]


def _in_processes(tasks: list[_Task[T, R]], workers: int) -> Iterator[tuple[_Task[T, R], R | _Error]]:
    waiting = deque(tasks)
    while waiting:
        interrupted: list[_Task[T, R]] = []
        yield from _until_broken(waiting, workers, interrupted)
        # A pool does not say which process died, so each interrupted case runs again in its own process.
        for task in interrupted:
            yield task, _run_isolated(task)


def _until_broken(
    waiting: deque[_Task[T, R]], workers: int, interrupted: list[_Task[T, R]]
) -> Iterator[tuple[_Task[T, R], R | _Error]]:
    """Work until no task waits or a process dies; the tasks that were running then go to ``interrupted``."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=context, initializer=end_with_parent)
    running: dict[Future[R | _Error], _Task[T, R]] = {}
    broken = False
    try:
        while True:
            while waiting and len(running) < workers and not broken:
                try:
                    with starting_process():  # the first submission starts the processes
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
                except (BrokenProcessPool, _Stopped):
                    broken = True
                    interrupted.append(task)
                else:
                    yield task, result
    except BaseException:  # the caller stops early, perhaps since it was interrupted
        for process in multiprocessing.active_children():
            process.terminate()
        with suppress(RuntimeError):  # of a pool whose own thread the system did not allow
            pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown(cancel_futures=True)


def _run_isolated(task: _Task[T, Any]) -> Any:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, receiver:
        trace = Path(folder) / "trace"
        process = context.Process(target=_send, args=(task, sender, trace))
        with starting_process():
            process.start()
        sender.close()  # so that the end of the process closes the pipe
        try:
            return receiver.recv()
        except EOFError:
            process.join()
            text = trace.read_text(encoding="utf-8") if trace.is_file() else ""
            return _Error(_exit_cause(process.exitcode or 0), text)
        finally:
            process.kill()
            process.join()


def _send(task: _Task[T, Any], sender: Connection, trace: Path) -> None:
    end_with_parent()
    with trace.open("w", encoding="utf-8") as file:
        faulthandler.enable(file)
        sender.send(task())


def _exit_cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process died: it was killed, probably since memory ran out; use fewer workers"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"its process died: {how}"


def end_with_parent() -> None:
    """End this worker when its parent process ends, even if that is killed; on Ctrl-C, end without a traceback.

    A pool's workers would otherwise wait for work for ever. Where the system allows no thread, they go without.
    """
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, _stop)
    with suppress(RuntimeError):
        threading.Thread(target=_exit_with_parent, daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped(128 + number)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker only"
    parent.join()
    os._exit(1)
