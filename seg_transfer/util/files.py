"""Atomic writing of files and folders, local or at an address, and their digests and stamps."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg_transfer.util.addresses import address_of
from seg_transfer.util.local_files import whole_local_file, whole_local_folder
from seg_transfer.util.remote import fetched, send
from seg_transfer.util.remote_folders import folder_digest, send_folder


@contextmanager
def whole_file(path: Path, *, needed: int | None = None, apart: bool = False) -> Iterator[Path]:
    """Write a file as :func:`whole_local_file` does; one that stands for an address is sent before it is replaced.

    Raises:
        UserError: As there, and if it cannot be sent: the object and its copy then stay as they were.
    """
    with whole_local_file(path, needed=needed, apart=apart) as temporary:
        yield temporary
        if address_of(path) is not None:
            send(temporary, path)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Write a folder as :func:`whole_local_folder` does; one that stands for an address is sent, and stays empty here.

    Raises:
        UserError: As there, and if it cannot be sent.
    """
    with whole_local_folder(path, replace=replace) as temporary:
        yield temporary
        if address_of(path) is not None:
            send_folder(temporary, path)
            shutil.rmtree(temporary)
            temporary.mkdir()


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    content = text.encode()
    with whole_file(path, needed=len(content)) as temporary:
        temporary.write_bytes(content)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and digests of a folder's files, in hexadecimal digits."""
    if address_of(path) is not None:
        fetched(path)
        if path.is_dir():
            return folder_digest(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        listed = [f"{each.relative_to(path).as_posix()} {file_digest(each)}\n" for each in files]
        return hashlib.sha256("".join(listed).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> str | None:
    """Name, size and time of modification of a file, or of a folder's files, as text; None if there is no such file."""
    if path.is_dir() and address_of(path) is not None:
        return f"{path.name} {folder_digest(path)}"
    if path.is_dir():
        found = [each.stat() for each in path.rglob("*") if each.is_file()]
        size, newest = sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)
        return f"{path.name} {size} {newest} {len(found)}"
    if not path.is_file():
        return None
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"
