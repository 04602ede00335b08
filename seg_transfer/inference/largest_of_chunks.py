"""The largest component in a label map that is larger than memory.

Blocks are labelled one by one. Components that touch over the border of a block are joined, in a forest of disjoint
sets (Tarjan, Journal of the ACM 22:2, 1975), so that memory holds one block and a number for each of its components.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.chunked_image import boxes
from seg_transfer.data.formats.ome_zarr_writer import NativeArray, chunk_size, created
from seg_transfer.data.geometry import Box, Grid
from seg_transfer.planning.model_file import Postprocessing

VOXELS = 2**22
"""Of a block: some 100 MB with its numbers."""
_CONNECTED = np.ones((3, 3, 3), bool)


def keep_largest_of_chunks(labels: NativeArray, grid: Grid, chosen: Postprocessing, *, beside: Path) -> None:
    """As :func:`~seg_transfer.inference.postprocess.postprocess`, of a label map on disk.

    Of equal components that in the first block stays.

    Args:
        labels: The label map, which is changed.
        grid: Its grid.
        chosen: The labels that keep only their largest component.
        beside: Folder for numbers of components, which are removed at the end.
    """
    if chosen.foreground:
        _keep_largest(labels, grid, None, beside)
    for value in chosen.labels:
        _keep_largest(labels, grid, value, beside)


def _keep_largest(labels: NativeArray, grid: Grid, value: int | None, beside: Path) -> None:
    from scipy import ndimage

    blocks = boxes(labels.shape, chunk_size(grid), lambda size: math.prod(size) <= VOXELS)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".components-") as folder:
        numbers = NativeArray(created(Path(folder), grid, np.dtype(np.int64)), flat=grid.flat)
        parents, sizes = [0], [0]  # of each number; 0 is none
        for block in blocks:
            values = labels[block]
            found, count = ndimage.label(values != 0 if value is None else values == value, _CONNECTED)
            if not count:
                continue
            own = found.astype(np.int64)
            own[found != 0] += len(parents) - 1
            sizes += np.bincount(found.reshape(-1))[1:].tolist()
            parents += range(len(parents), len(parents) + count)
            numbers[block] = own
            _join(parents, numbers[_around(block, labels.shape)], ndimage)
        roots = np.array([_root(parents, number) for number in range(len(parents))])
        totals = np.bincount(roots, sizes)
        if np.count_nonzero(totals) < 2:
            return
        kept = roots == int(totals.argmax())
        for block in blocks:
            held = numbers[block]
            removed = (held != 0) & ~kept[held]
            if removed.any():
                values = labels[block]
                values[removed] = 0
                labels[block] = values


def _join(parents: list[int], numbers: NDArray[np.int64], ndimage: Any) -> None:
    """Join all numbers of each component of a box."""
    inside = numbers != 0
    found, _ = ndimage.label(inside, _CONNECTED)
    pairs = np.unique(np.stack([found[inside], numbers[inside]]), axis=1)
    for (before, one), (after, other) in zip(pairs.T[:-1].tolist(), pairs.T[1:].tolist(), strict=True):
        if before == after:
            first, second = sorted((_root(parents, one), _root(parents, other)))
            parents[second] = first


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _around(block: Box, shape: tuple[int, int, int]) -> Box:
    """A block with the voxels that touch it."""
    x, y, z = (slice(max(0, part.start - 1), min(size, part.stop + 1)) for part, size in zip(block, shape, strict=True))
    return x, y, z
