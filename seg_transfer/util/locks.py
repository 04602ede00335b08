"""Advisory locks: files that say who works on something, on any file system and across containers and machines.

A lock is a file that only one process can create. While it is held, its modification time is refreshed, so that others
see that the holder lives. The lock of a dead process is taken over: at once where the process can be looked for, that
is in the same boot and PID namespace, else after :data:`DEAD_AFTER` seconds without a refresh. Process numbers alone
identify nobody: in two containers they are the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import Field, ValidationError

from seg_transfer.errors import UserError
from seg_transfer.util.disk_space import room_for
from seg_transfer.util.local_files import file_system_time, make_folder
from seg_transfer.util.processes import is_alive, namespace, start_of
from seg_transfer.util.records import Record

logger = logging.getLogger(__name__)

REFRESH = 15.0
"""Seconds between two refreshes of a lock that is held."""
DEAD_AFTER = 120.0
"""Seconds without a refresh after which a process that cannot be looked for counts as dead."""
POLL = 0.5
"""Seconds between two looks at a lock that is waited for."""

_held: dict[Path, bytes] = {}
"""Locks of this process, with the content of their files."""


class Holder(Record):
    """The content of a lock file: the process that holds the lock."""

    host: str
    pid: int = Field(ge=1)
    since: str
    namespace: str = Field(description="boot of the machine and PID namespace, in which pid is unique")
    started: int | None = Field(description="when the process started, in clock ticks since the boot; None: unknown")
    token: str = Field(description="random, so that no two locks are alike")

    @classmethod
    def this_process(cls) -> Holder:
        """This process, with a new token."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z"),
            namespace=namespace(),
            started=start_of(os.getpid()),
            token=secrets.token_hex(8),
        )

    @property
    def alive(self) -> bool | None:
        """Whether the process runs; None if that cannot be known from here."""
        return is_alive(self.pid, self.started, self.namespace)


@contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock; its file is removed at the end.

    Args:
        path: The lock file; its folder is made.
        what: What is done meanwhile, for messages, such as "fold_0 is being trained".
        wait: Wait until another holder has ended, instead of refusing.

    Raises:
        UserError: If another process holds the lock; the message says which, and since when.
    """
    path = path.absolute()
    content = _take(path, what, wait=wait)
    _held[path] = content
    ended = threading.Event()
    refresher = threading.Thread(target=_refresh, args=(path, content, ended), daemon=True)
    try:
        refresher.start()  # fails where the system allows no more threads
        yield
    finally:
        ended.set()
        if refresher.ident is not None:
            refresher.join()
        del _held[path]
        with contextlib.suppress(OSError):  # whoever finds it takes it over; an error on the way here stays what it is
            if _read(path) == content:
                path.unlink(missing_ok=True)


def check_held(path: Path) -> None:
    """Check before writing that a lock of this process was not taken over, as after the machine was suspended.

    Raises:
        UserError: If another process has it now. A lock that this process never took is not checked.
    """
    path = path.absolute()
    if path in _held and (found := _read(path)) != _held[path]:
        by = "another process" if found is None else _by(found)
        what = f"this process was thought dead, and its work was taken over by {by}"
        raise UserError(what, where=path, hint="let the other process go on, or stop it and run this command again")


def is_abandoned(path: Path) -> bool:
    """Whether a lock is there whose holder is dead, as :func:`locked` judges it."""
    content = _read(path)
    return content is not None and _is_stale(path, content)


def _take(path: Path, what: str, *, wait: bool) -> bytes:
    """Create the lock file; returns its content."""
    content = Holder.this_process().model_dump_json(indent=1).encode()
    told = False
    while not _create(path, content):
        found = _read(path)
        if found is None:  # released just now
            continue
        if _is_stale(path, found):
            _remove_stale(path, found)
            continue
        message = f"{what} by {_by(found)}"
        if not wait:
            hint = (
                "wait until it has ended, or stop it; if it was killed on another machine or in another container, "
                f"run this command again after {DEAD_AFTER / 60:g} minutes"
            )
            raise UserError(message, where=path, hint=hint)
        if not told:
            logger.info(f"waiting: {message}")
            told = True
        time.sleep(POLL)
    return content


def _create(path: Path, content: bytes) -> bool:
    make_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with room_for(path, path, needed=len(content)):
            while content:  # a disk that is nearly full takes a part
                content = content[os.write(descriptor, content) :]
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return True


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _holder(content: bytes) -> Holder | None:
    """The holder; None if the content is damaged, or not written yet."""
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


def _by(content: bytes) -> str:
    holder = _holder(content)
    return f"process {holder.pid} on {holder.host}, since {holder.since}" if holder else "another process"


def _is_stale(path: Path, content: bytes) -> bool:
    """Whether the holder of this content is dead."""
    holder = _holder(content)
    if holder is not None and (alive := holder.alive) is not None:
        return not alive
    try:
        refreshed = path.stat().st_mtime
    except FileNotFoundError:
        return False
    # The file system's clock on both sides: clocks of machines differ.
    return abs(file_system_time(path.parent) - refreshed) > DEAD_AFTER


def _remove_stale(path: Path, content: bytes) -> None:
    """Remove a dead holder's file, unless another process has done so and taken the lock meanwhile.

    Whoever removes holds a guard file, so that two processes cannot remove one after the other, the second the new lock
    of the first.
    """
    guard = path.with_name(f"{path.name}.takeover")
    if not _create(guard, b""):
        with contextlib.suppress(FileNotFoundError):
            if abs(file_system_time(path.parent) - guard.stat().st_mtime) > DEAD_AFTER:
                guard.unlink()
        time.sleep(POLL / 10)
        return
    try:
        if _read(path) == content:
            path.unlink(missing_ok=True)
    finally:
        guard.unlink(missing_ok=True)


def _refresh(path: Path, content: bytes, ended: threading.Event) -> None:
    """Refresh a lock until it is released or taken over."""
    while not ended.wait(REFRESH):
        with contextlib.suppress(OSError):  # a file system that is away for a moment
            if _read(path) != content:
                return
            os.utime(path)
