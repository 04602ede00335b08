"""A child process that holds the models and segments one task after the other.

A task that crashes, is killed by the system for its memory, or is cancelled, takes this process with it and nothing
else: the next task starts a new one.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from seg_transfer.errors import UserError
from seg_transfer.options.model_options import SegmenterOptions
from seg_transfer.serving.segment import Result, Task, segment_task
from seg_transfer.util.limits import limit_reached
from seg_transfer.util.parallel import end_with_parent
from seg_transfer.util.starting import starting_process
from seg_transfer.workflow.source import find_source, load_predictor

if TYPE_CHECKING:
    from seg_transfer.inference.predictor import Predictor

logger = logging.getLogger(__name__)


class WorkerDied(Exception):
    """The process ended in the middle of a task; the text says why."""


@dataclass(frozen=True)
class _Defect:
    """An error that is no user's."""

    trace: str


class Worker:
    """The process; one thread at a time gives it tasks, any thread may stop it.

    Args:
        options: The models, and what they may use.
        tta: Average over mirrored copies.
    """

    def __init__(self, options: SegmenterOptions, *, tta: bool = True) -> None:
        self._options, self._tta = options, tta
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._changing = threading.Lock()
        self._closed = False
        self.starts = 0

    def start(self) -> None:
        """Start the process and load the models, unless that is done.

        Raises:
            UserError: If the models cannot be loaded.
            WorkerDied: If the process ends while loading, or is stopped.
        """
        with self._changing:
            if self._closed:
                raise WorkerDied("the server stops")
            if self._process is not None and self._process.is_alive():
                return
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            plain = SegmenterOptions(**{name: getattr(self._options, name) for name in SegmenterOptions.model_fields})
            self._process = context.Process(target=_work, args=(plain, self._tta, other), daemon=True)
            with starting_process():
                self._process.start()
            other.close()  # so that the end of the process closes the pipe
            self.starts += 1
        try:
            self._answer()
        except UserError:
            self.stop()  # it is ending: the next task has to start another one
            raise

    def run(self, task: Task) -> Result:
        """Segment; starts the process if it is not there.

        Raises:
            UserError: If the input is not fit.
            WorkerDied: If the process ends before it is done, or can load the models no more.
        """
        try:
            self.start()
        except UserError as error:
            logger.error(f"the models cannot be loaded again: {error}")
            raise WorkerDied("the models cannot be loaded again; the server's log says why") from None
        assert self._connection is not None
        try:
            self._connection.send(task)
        except OSError:
            raise WorkerDied(self._cause()) from None
        answer = self._answer()
        assert isinstance(answer, Result), answer
        return answer

    def stop(self) -> None:
        """Kill the process, whatever it does; the next task starts another one."""
        with self._changing:
            if self._process is not None:
                self._process.kill()
                self._process.join()

    def close(self) -> None:
        """Kill the process for good."""
        self._closed = True
        self.stop()

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return None if self._process is None else self._process.pid

    def _answer(self) -> object:
        assert self._connection is not None
        try:
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._cause()) from None
        if isinstance(answer, UserError):
            raise answer
        if isinstance(answer, _Defect):
            logger.error(f"a defect of segtl:\n{answer.trace}")
            raise WorkerDied("a defect of segtl; its log has the traceback")
        return answer

    def _cause(self) -> str:
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return "it was killed, perhaps since memory ran out"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@contextmanager
def started_worker(options: SegmenterOptions, *, tta: bool) -> Iterator[Worker]:
    """A worker that has loaded its models, and is closed at the end.

    Raises:
        UserError: If the models cannot be loaded.
    """
    worker = Worker(options, tta=tta)
    try:
        try:
            worker.start()
        except WorkerDied as error:
            raise UserError(f"the process that segments ended: {error}") from None
        yield worker
    finally:
        worker.close()


def _work(options: SegmenterOptions, tta: bool, connection: Connection) -> None:
    """Load the models, then segment what arrives, until the other end closes."""
    end_with_parent()
    try:
        predictor = load_predictor(find_source(options), options)
    except Exception as error:
        connection.send(_told(error))
        return
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(predictor, task, tta))


def _outcome(predictor: Predictor, task: Task, tta: bool) -> Result | UserError | _Defect:
    try:
        return segment_task(predictor, task, tta=tta)
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> UserError | _Defect:
    if isinstance(error, UserError):
        return error
    return limit_reached(error) or _Defect(traceback.format_exc())
