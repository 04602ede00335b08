"""Output files appear whole or not at all, written beside their place and renamed into it; input files have stamps."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg_transfer.errors import UserError

_OTHER_FOLDER = "name another folder, one that you may write to"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it once the block ends without an exception.

    The temporary name keeps the ending, since writers choose the format by it.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there yet.

    Raises:
        UserError: If that is not possible, for instance since a file has this name.
    """
    check_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"this folder cannot be made: {error.strerror}", where=path, hint=_OTHER_FOLDER) from None


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, so that it is said before long work; makes nothing.

    Raises:
        UserError: If it, or the nearest folder above that is there, is a file or may not be written to.
    """
    there = path.absolute()
    while not os.access(there, os.F_OK) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "this is a file, a folder is needed" if there == path.absolute() else f"{there} is a file"
        raise UserError(what, where=path, hint=_OTHER_FOLDER)
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} may not be written to", where=path, hint=_OTHER_FOLDER)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> str | None:
    """Text that changes with a file's name, size or modification time; None if there is no such file."""
    if not path.is_file():
        return None
    about = path.stat()
    return f"{path.name} {about.st_size} {about.st_mtime_ns}"
