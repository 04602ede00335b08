"""Output files appear whole or not at all, written beside their place and renamed into it; input files have stamps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that replaces it once the block ends without an exception.

    The temporary name keeps the ending, since writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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


def file_stamp(path: Path) -> str | None:
    """Text that changes with a file's name, size or modification time; None if there is no such file."""
    if not path.is_file():
        return None
    about = path.stat()
    return f"{path.name} {about.st_size} {about.st_mtime_ns}"
