"""Results of parallel work in the order of its items, in little memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from seg_transfer.util.disk_space import room_for

T = TypeVar("T")
R = TypeVar("R")


def in_order(results: Iterable[tuple[T, R]], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Sort results as they come.

    One whose turn has not come waits in a file, so that a case that takes long fills the disk at most, not memory.

    Args:
        results: Each item with its result, in any order.
        items: The same objects in order.

    Yields:
        Each item with its result.

    Raises:
        DiskFull: If there is no room for those that wait.
    """
    remaining = iter(items)
    following = next(remaining, None)
    with TemporaryDirectory(prefix="segtl-early-") as folder:
        for item, result in results:
            if item is not following:
                file = _file(folder, item)
                with room_for(file, file):
                    file.write_bytes(pickle.dumps(result))
                continue
            yield item, result
            while (following := next(remaining, None)) is not None and (file := _file(folder, following)).exists():
                result = pickle.loads(file.read_bytes())
                file.unlink()
                yield following, result


def _file(folder: str, item: object) -> Path:
    return Path(folder, str(id(item)))
