"""Says that the disk is full, and how much was needed, whichever library failed to write."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.util.limits import LimitReached
from seg_transfer.util.units import bytes_text

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows (`ulimit -f`)",
}
_PIECE = 4 * 2**20
"""Bytes; more than a library holds back until it notices that the disk is full."""
_MOST_TRIED = 2**28
_HINT = "free disk space there, then run the same command again: what is finished is kept"
_LIMIT_HINT = "raise the limit, then run the same command again: what is finished is kept"


class DiskFull(LimitReached):
    """There is no room for a file; no other case will find any."""


@contextmanager
def room_for(path: Path, temporary: Path, *, needed: int | None = None) -> Iterator[None]:
    """Turn any error of the block into :class:`DiskFull` if there was no room for what it writes.

    Libraries hide the cause: safetensors' error is no ``OSError``, blosc2 and numpy name none at all.

    Args:
        path: What is being written, for the message.
        temporary: The file or folder that the block writes; it may be changed after an error.
        needed: Bytes that writing needs at most, if that is known.

    Raises:
        DiskFull: With where it happened, and how much is free and needed.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None:
            number = _in_text(error) or _found_by_writing(temporary, needed or 0)
        if number not in _REASONS:
            raise
        what = _REASONS[number]
        free = shutil.disk_usage(temporary.parent).free + sum(file.stat().st_size for file in _files(temporary))
        if needed is not None:
            what += f": up to {bytes_text(needed)} are needed"
        elif number != errno.EFBIG:
            what += f": more than {bytes_text(free)} are needed"
        if number != errno.EFBIG:
            what += f", {bytes_text(free)} are free"
        raise DiskFull(what, where=path, hint=_LIMIT_HINT if number == errno.EFBIG else _HINT) from error


def _in_text(error: Exception) -> int | None:
    """The number of the system's error about room that an error's text quotes."""
    return next((number for number in _REASONS if os.strerror(number) in str(error)), None)


def _found_by_writing(temporary: Path, needed: int) -> int | None:
    """The same, found by writing more to the largest of the files, since the error does not tell."""
    largest = max(_files(temporary), key=lambda file: file.stat().st_size, default=temporary)
    if largest.is_dir():
        return None
    size = largest.stat().st_size if largest.exists() else 0  # some libraries delete what they could not finish
    piece = bytes(_PIECE)
    try:
        with largest.open("ab", buffering=0) as file:
            for _ in range(1 + min(needed, _MOST_TRIED) // _PIECE):
                file.write(piece)
            file.write(bytes(1))  # a full disk takes a part of the last piece, and refuses this
    except OSError as error:
        return error.errno
    finally:
        os.truncate(largest, size)
    return None


def _files(temporary: Path) -> list[Path]:
    return [file for file in (temporary, *temporary.rglob("*")) if file.is_file()]
