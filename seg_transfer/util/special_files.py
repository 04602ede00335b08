"""Outputs to what is no plain file: a pipe, a terminal or /dev/null is written into and never replaced."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from seg_transfer.errors import UserError

_DESCRIPTOR = re.compile(r"/dev/(?:fd/(\d+)|(stdin|stdout|stderr))|/proc/self/fd/(\d+)")
_STANDARD = ("stdin", "stdout", "stderr")


def is_special(path: Path) -> bool:
    """Whether the path, or what it links to, is there and neither a plain file nor a folder.

    A descriptor of this process, such as ``/dev/stdout``, is special even where it is redirected to a file.
    """
    return path.exists() and (_descriptor(path) is not None or not (path.is_file() or path.is_dir()))


def check_special(path: Path) -> None:
    """Check that a special file takes output.

    Raises:
        UserError: If it is a disk, whose content would be lost, or a socket, or may not be written to.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        what = "this is a disk, a file is needed" if stat.S_ISBLK(mode) else "this is no file"
        raise UserError(what, where=path, hint="name a file")
    if not os.access(path, os.W_OK):
        raise UserError("may not be written to", where=path, hint="name a file that you may write to")


@contextmanager
def written_into(path: Path) -> Iterator[Path]:
    """Yield a temporary path, whose content is written into a special file if the block ends without an exception.

    Raises:
        UserError: If the special file takes no output; see :func:`check_special`.
    """
    check_special(path)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        yield temporary
        try:
            with _opened(path) as target, temporary.open("rb") as source:
                shutil.copyfileobj(source, target)
        except OSError as error:
            unread = error.errno == errno.ENXIO
            what = "nothing reads from this pipe" if unread else f"cannot be written to: {error.strerror}"
            hint = "start the program that reads it first" if unread else "name a file"
            raise UserError(what, where=path, hint=hint) from None


def _opened(path: Path) -> BinaryIO:
    descriptor = _descriptor(path)
    if descriptor is not None:
        return os.fdopen(os.dup(descriptor), "wb")  # with its position: opening the path would start at the beginning
    opened = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)  # blocking, it would wait for a reader for ever
    os.set_blocking(opened, True)
    return os.fdopen(opened, "wb")


def _descriptor(path: Path) -> int | None:
    found = _DESCRIPTOR.fullmatch(str(path.absolute()))
    if found is None:
        return None
    number, name, own = found.groups()
    return _STANDARD.index(name) if name else int(number or own)
