"""Arrays on disk whose chunks are checked before a process reads them for the first time.

blosc2 has no checksums: most changed bytes decompress into other values. CRC-32 finds every change of up to 32
neighbouring bits, and all but one in 4 * 10^9 others; it takes 0.3 ms per chunk, once (``bench/preprocessing.py``).
"""

from __future__ import annotations

import itertools
import operator
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seg_transfer.errors import UserError
from seg_transfer.util.records import Record

DAMAGED_HINT = "run `segtl preprocess`, which checks every case and makes damaged ones again"
HEADER_LENGTH = slice(11, 15)
"""Where a blosc2 file has the length of its header, big-endian; the chunks follow it, and an index of them."""

FRAME = -1
Checked = dict[str, set[int]]
"""File of a case -> what a process has checked of it: numbers of chunks, and :data:`FRAME` for what is around them."""


class ArrayDigests(Record):
    """CRC-32 of a blosc2 file, chunk by chunk."""

    size: int = Field(description="bytes of the file")
    start: int = Field(description="where the chunks begin")
    end: int = Field(description="where they end")
    frame: int = Field(description="of what is around the chunks: shape, type, index")
    chunks: str = Field(description="of each compressed chunk, 8 hexadecimal digits each")

    @classmethod
    def of(cls, path: Path) -> ArrayDigests:
        """Read a file."""
        array = _open(path)  # which its schunk does not keep alive
        schunk = array.schunk
        with path.open("rb") as file:
            start = int.from_bytes(file.read(HEADER_LENGTH.stop)[HEADER_LENGTH], "big")
        size, end = path.stat().st_size, start + schunk.cbytes
        chunks = (zlib.crc32(schunk.get_chunk(number)) for number in range(schunk.nchunks))
        return cls(
            size=size,
            start=start,
            end=end,
            frame=_frame(path, start, end),
            chunks="".join(f"{checksum:08x}" for checksum in chunks),
        )


class CheckedArray:
    """A blosc2 array on disk; slicing decompresses only the blocks needed.

    Args:
        path: The file.
        digests: Its digests; None for a file of an earlier release, which is not checked.
        checked: What was checked already; added to.

    Raises:
        UserError: If the file is damaged, here or when a damaged chunk is read.
    """

    def __init__(self, path: Path, digests: ArrayDigests | None, checked: set[int]) -> None:
        self.path, self._digests, self._checked = path, digests, checked
        # Before blosc2 opens it, which trusts what it reads.
        if digests is not None and FRAME not in checked:
            if path.stat().st_size != digests.size or _frame(path, digests.start, digests.end) != digests.frame:
                raise damaged(path)
            checked.add(FRAME)
        self._array = _open(path)
        self.shape: tuple[int, ...] = self._array.shape
        self.chunks: tuple[int, ...] = self._array.chunks
        self.dtype: np.dtype = self._array.dtype
        self._grid = tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a box, given as for a numpy array by integers, slices without a step, and an ellipsis."""
        if self._digests is not None and len(self._checked) <= self._array.schunk.nchunks:
            self._check(self._numbers(key))
        try:
            return self._array[key]
        except RuntimeError as error:
            raise damaged(self.path, str(error)) from error

    def check(self) -> None:
        """Check every chunk."""
        self._check(range(self._array.schunk.nchunks))

    def _check(self, numbers: Iterable[int]) -> None:
        if self._digests is None:
            return
        for number in numbers:
            if number not in self._checked:
                if self._checksum(number) != self._digests.chunks[8 * number : 8 * number + 8]:
                    raise damaged(self.path, f"chunk {number} of {self._array.schunk.nchunks}")
                self._checked.add(number)

    def _checksum(self, number: int) -> str | None:
        """CRC-32 of a chunk in hexadecimal digits; None if blosc2 cannot read it."""
        try:
            return f"{zlib.crc32(self._array.schunk.get_chunk(number)):08x}"
        except RuntimeError:
            return None

    def _numbers(self, key: Any) -> list[int]:
        """The chunks that a box touches."""
        parts = list(key) if isinstance(key, tuple) else [key]
        if (rest := next((index for index, part in enumerate(parts) if part is Ellipsis), None)) is not None:
            parts[rest : rest + 1] = [slice(None)] * (len(self.shape) - len(parts) + 1)
        parts += [slice(None)] * (len(self.shape) - len(parts))
        ranges = []
        for part, size, chunk in zip(parts, self.shape, self.chunks, strict=True):
            if isinstance(part, slice):
                first, last, _ = part.indices(size)
            else:
                first = operator.index(part) % size
                last = first + 1
            ranges.append(range(first // chunk, -(-last // chunk)) if first < last else range(0))
        return [int(np.ravel_multi_index(place, self._grid)) for place in itertools.product(*ranges)]


def damaged(path: Path, what: str = "") -> UserError:
    """The error about a damaged file of a store; ``what`` is the part or the cause, if it is known."""
    part = f" ({what})" if what else ""
    return UserError(f"this file of a preprocessed case is damaged{part}", where=path, hint=DAMAGED_HINT)


def _open(path: Path) -> blosc2.NDArray:
    return blosc2.open(str(path), mode="r", mmap_mode="r")


def _frame(path: Path, start: int, end: int) -> int:
    """CRC-32 of what is around the chunks."""
    with path.open("rb") as file:
        checksum = zlib.crc32(file.read(start))
        file.seek(end)
        return zlib.crc32(file.read(), checksum)
