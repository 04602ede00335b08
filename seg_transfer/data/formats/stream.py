"""Reading from files and decompressing streams to their end, with bounds."""

from __future__ import annotations

from typing import BinaryIO

GZIP_RATIO = 1032
"""The most that deflate compresses: two bits for 258 bytes."""

_BLOCK = 2**20


def fill(stream: BinaryIO, target: memoryview) -> None:
    """Fill ``target``, bytes, with the next bytes of the stream.

    Raises:
        EOFError: If the stream ends before.
    """
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + _BLOCK])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"it is cut off: {len(target) - done} bytes are missing")
        done += count


def check_end(stream: BinaryIO, claimed: int) -> None:
    """Check that the stream ends here; a gzip stream then compares its checksum.

    Raises:
        ValueError: If it goes on; no more than one block is decompressed.
        OSError: If the checksum differs.
    """
    if stream.read(1):
        raise ValueError(f"its header claims {claimed} bytes, but the file holds more")
