"""Jobs of the server: a bounded queue, one worker, and results that expire."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seg_transfer.errors import EveryCaseFails, UserError
from seg_transfer.serving.segment import Result, Task
from seg_transfer.serving.worker import Worker, WorkerDied

logger = logging.getLogger(__name__)

Status = Literal["queued", "running", "done", "failed", "kept"]
"""``kept``: an image that waits for others to ask for its label map."""
LONGEST_TICK = 5.0
"""Seconds between two looks for what has expired."""


class QueueFull(Exception):
    """As many jobs wait, or are being uploaded, as may."""


@dataclass(eq=False)
class Job:
    """An uploaded image and what became of it.

    Attributes:
        id: Random, and hard to guess.
        task: What to segment.
        status: Where it stands.
        error: Why it failed, in the words of the command line.
        refused: Whether it failed because of what was uploaded, rather than in the server.
        result: The label map, once it is done.
        finished: When, by the monotonic clock.
        ended: Set once it is done or failed.
    """

    id: str
    task: Task
    status: Status = "queued"
    error: str = ""
    refused: bool = False
    result: Result | None = None
    finished: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def warnings(self) -> tuple[str, ...]:
        """In what the image is unlike the training images, once that is known."""
        return () if self.result is None else self.result.warnings


class Jobs:
    """Takes jobs, segments them in order, and keeps results for a time.

    Args:
        worker: Segments; it is started.
        folder: Everything is below it.
        most: Jobs that may wait, uploads under way included.
        keep: Seconds for which a result stays.
    """

    def __init__(self, worker: Worker, folder: Path, *, most: int, keep: float) -> None:
        self._worker, self._folder, self._most, self._keep = worker, folder, most, keep
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._uploads = 0
        self._changed = threading.Condition()
        self._stopping = False
        self.ended: Counter[str] = Counter()
        self.seconds = 0.0
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._work, self._expire)]
        for thread in self._threads:
            thread.start()

    def begin_upload(self) -> None:
        """Count an upload that begins.

        Raises:
            QueueFull: If there is no room for its job.
        """
        with self._changed:
            self._check_room()
            self._uploads += 1

    def end_upload(self) -> None:
        """The upload of :meth:`begin_upload` is over, or broken off."""
        with self._changed:
            self._uploads -= 1

    def new_folder(self) -> Path:
        """A folder for the files of a job, whose name is the job's identifier."""
        folder = self._folder / secrets.token_urlsafe(16)
        folder.mkdir(mode=0o700)
        return folder

    def submit(self, task: Task) -> Job:
        """Queue a job, whose files are in a folder of :meth:`new_folder`.

        Raises:
            QueueFull: If there is no room; its folder is removed.
        """
        job = Job(task.folder.name, task)
        with self._changed:
            try:
                self._check_room()
            except QueueFull:
                _remove(task.folder)
                raise
            self._jobs[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def keep(self, task: Task) -> Job:
        """Keep an image, whose folder is one of :meth:`new_folder`, until it expires or is deleted.

        Raises:
            QueueFull: If as many are kept as jobs may wait; its folder is removed.
        """
        job = Job(task.folder.name, task, "kept", finished=time.monotonic())
        with self._changed:
            if sum(other.status == "kept" for other in self._jobs.values()) >= self._most:
                _remove(task.folder)
                raise QueueFull
            self._jobs[job.id] = job
        return job

    def get(self, identifier: str) -> Job | None:
        """A job that is neither deleted nor expired."""
        with self._changed:
            return self._jobs.get(identifier)

    def delete(self, identifier: str) -> bool:
        """Forget a job with its files; one that runs is broken off. Whether there was one."""
        with self._changed:
            job = self._jobs.pop(identifier, None)
            if job is None:
                return False
            if job in self._waiting:
                self._waiting.remove(job)
            if job is self._running:
                self._worker.stop()  # the thread that waits for it removes the files
            else:
                _remove(job.task.folder)
            job.ended.set()
        return True

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many jobs run: 0 or 1."""
        return int(self._running is not None)

    def close(self) -> None:
        """Break off what runs, and end."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify_all()
        self._worker.close()
        for thread in self._threads:
            thread.join()

    def _check_room(self) -> None:
        if len(self._waiting) + self._uploads >= self._most:
            raise QueueFull

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                job = self._running = self._waiting.popleft()
                job.status = "running"
            begun = time.monotonic()
            try:
                job.result = self._worker.run(job.task)
            except UserError as error:
                job.error = job.task.as_named(str(error))
                job.refused = not isinstance(error, EveryCaseFails)  # such as a full disk
            except WorkerDied as error:
                job.error = f"the process that segments ended: {error}"
            except OSError as error:
                job.error = f"the process that segments cannot be started: {error.strerror}"
            self._end(job, time.monotonic() - begun)

    def _end(self, job: Job, seconds: float) -> None:
        with self._changed:
            self._running = None
            job.status = "failed" if job.result is None else "done"
            job.finished = time.monotonic()
            deleted = job.id not in self._jobs
            self.ended["deleted" if deleted else job.status] += 1
            self.seconds += seconds
            for path in [] if deleted else list(job.task.folder.iterdir()):
                if job.result is None or path != job.result.file:
                    _remove(path)
            if deleted:
                _remove(job.task.folder)
            job.ended.set()
        if not deleted and not job.refused and job.error:
            logger.error(f"job {job.id[:6]}: {job.error}")

    def _expire(self) -> None:
        with self._changed:
            while not self._changed.wait_for(lambda: self._stopping, timeout=min(LONGEST_TICK, self._keep / 2)):
                now = time.monotonic()
                old = [job for job in self._jobs.values() if job.finished and now - job.finished > self._keep]
                for job in old:
                    del self._jobs[job.id]
                    _remove(job.task.folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
