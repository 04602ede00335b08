"""Atomic writing of local files and folders, and checks of output folders."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.util.disk_space import room_for
from seg_transfer.util.processes import is_alive, namespace, short_namespace, start_of
from seg_transfer.util.special_files import check_special, is_special, written_into

GZIP_MAGIC = b"\x1f\x8b"
"""The first bytes of a gzip file."""
_HINT = "name another folder, one that you may write to"
_TEMPORARY = re.compile(
    r"\.segtl-(?:(?P<namespace>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-(?P<started>[0-9]{1,20})-)?[0-9a-f]{8,16}-"
)
_LONGEST_END = 120
"""Bytes of a file's name that its temporary file keeps, so that the name does not become too long."""
_ABANDONED_AFTER = 3600.0
"""Seconds without a change after which a temporary file counts as left, if nobody knows whether its process lives."""
_tidied: set[Path] = set()
"""Folders in which this process has removed what dead ones left."""


@contextmanager
def whole_local_file(path: Path, *, needed: int | None = None, apart: bool = False) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block ends without an exception.

    It lies in the same folder and keeps the ending, since writers choose the format by it. Its name tells the process,
    and is random besides: process numbers are the same in two containers. What a process that was killed has left in
    the folder is removed. The file is on disk before it replaces the other, so that a power cut leaves one of both
    whole. A link stays, and what it leads to is replaced. What is no plain file, such as ``/dev/null``, is written into
    instead.

    Args:
        path: The file.
        needed: Bytes that writing needs at most, for the message about a full disk.
        apart: The temporary path is in a folder of its own, for a library that makes temporary files beside it, such as
            safetensors: when the process is killed they would stay, and nobody knows them by their names.

    Raises:
        UserError: If a folder has this name, the file's folder cannot be made, or the disk is full.
    """
    check_file(path)
    if is_special(path):
        with written_into(path) as temporary:
            yield temporary
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    make_folder(path.parent)
    if path.parent not in _tidied:
        _tidied.add(path.parent)
        with suppress(OSError):  # what is left there does no harm
            remove_temporaries(path.parent, of_dead=True)
    own = path.with_name(_temporary_name(path.name))
    temporary = own / path.name if apart else own
    try:
        if apart:
            with room_for(path, own, needed=needed):
                own.mkdir()
        with room_for(path, temporary, needed=needed):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        _remove(own)


@contextmanager
def whole_local_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block ends without an exception.

    What a process that was killed has left beside it is removed.

    Args:
        path: The folder; it must not exist, or be empty, unless it is replaced.
        replace: Remove a folder that is there, once the new one is written.

    Raises:
        UserError: If its parent cannot be made, or a file has this name.
    """
    if replace and os.path.lexists(path) and not path.is_dir():
        raise UserError("this is a file, a folder is needed", where=path, hint="name another output")
    path = path.absolute()
    make_folder(path.parent)
    remove_temporaries(path.parent, of_dead=True)
    temporary = path.with_name(_temporary_name(path.name))
    temporary.mkdir()
    try:
        yield temporary
        if replace and path.is_dir():
            old = path.with_name(_temporary_name(path.name))
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            if path.is_dir():
                path.rmdir()
            temporary.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync(path: Path) -> None:
    """Write a file, or a folder's list of names, from memory to disk, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder: Path, *, of_dead: bool = False) -> None:
    """Remove temporary files and folders that a killed process left in a folder; those in folders below it stay.

    Args:
        folder: The folder; it may be missing.
        of_dead: Leave the files of living processes, and of processes elsewhere until an hour after the last change, by
            the file system's clock. Only who holds a lock on the folder may remove all.
    """
    if not folder.is_dir():
        return
    found = {path: match for path in folder.iterdir() if (match := _TEMPORARY.match(path.name))}
    now = file_system_time(folder) if found and of_dead else 0.0
    for path, match in found.items():
        with suppress(OSError):  # gone, or not ours
            if not of_dead or _is_dead(match, now - path.stat().st_mtime):
                _remove(path)


def _remove(temporary: Path) -> None:
    if temporary.is_dir():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def _temporary_name(name: str) -> str:
    end = os.fsencode(name)[-_LONGEST_END:].decode(errors="ignore")
    return f".segtl-{short_namespace()}-{os.getpid()}-{start_of(os.getpid()) or 0}-{secrets.token_hex(4)}-{end}"


def _is_dead(temporary: re.Match[str], age: float) -> bool:
    """Whether the process that a temporary file's name tells has ended; by the file's age where that is not known."""
    alive = None
    if temporary["namespace"] == short_namespace():
        alive = is_alive(int(temporary["pid"]), int(temporary["started"]) or None, namespace())
    return age > _ABANDONED_AFTER if alive is None else not alive


def file_system_time(folder: Path) -> float:
    """The time in seconds by the clock that stamps files in this folder, which may be that of a server."""
    probe = folder / _temporary_name("clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist.

    Raises:
        UserError: If that is not possible, for instance since a file has this name.
    """
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"this folder cannot be made: {error.strerror}", where=path, hint=_HINT) from None


def check_folder(path: Path) -> None:
    """Check before long work that a folder can be made and written to; makes nothing.

    Raises:
        UserError: If the folder, or its nearest parent that exists, is a file or may not be written to.
    """
    existing = path.absolute()
    while not os.access(existing, os.F_OK) and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        what = "this is a file, a folder is needed" if existing == path.absolute() else f"{existing} is a file"
        raise UserError(what, where=path, hint=_HINT)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing} may not be written to", where=path, hint=_HINT)


def no_folder(path: Path, hint: str) -> UserError:
    """The error for a path that is no folder: nothing is there, or a file."""
    what = "this is a file, a folder is needed" if path.exists() else "there is no such folder"
    return UserError(what, where=path, hint=hint)


def check_file(path: Path) -> None:
    """Check before long work that a file can be written; makes nothing.

    Raises:
        UserError: If a folder has this name, or the file's folder cannot be made or written to.
    """
    if path.is_dir():
        raise UserError("this is a folder, a file is needed", where=path, hint="name a file")
    if is_special(path):
        check_special(path)
    else:
        check_folder(path.parent)


def content_bytes(path: Path) -> int:
    """Bytes of a file, of a gzip file about those that it holds decompressed; 0 if it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(2) != GZIP_MAGIC or size < 18:
            return size
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")
    return 0
