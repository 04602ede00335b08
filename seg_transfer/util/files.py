"""Atomic writing of files, checks of output folders, and digests and stamps of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg_transfer.errors import UserError

_HINT = "name another folder, one that you may write to"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block ends without an exception.

    It lies in the same folder and keeps the ending, since writers choose the format by it.

    Raises:
        UserError: If a folder has this name, or the file's folder cannot be made.
    """
    check_file(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    check_folder(path.parent)


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> str | None:
    """Name, size and modification time of a file as text; None if there is no such file."""
    if not path.is_file():
        return None
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
