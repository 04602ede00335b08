"""Images that are read part by part, since they may be larger than memory: OME-Zarr."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from seg_transfer.data.formats import check_affine, check_packages, ome_zarr, readable
from seg_transfer.data.formats.header import check_same_grid, converted, working_dtype
from seg_transfer.data.geometry import Box, Grid

VOXELS_AT_ONCE = 2**24
"""What :meth:`ChunkedImage.parts` reads at a time: 32 MB of CT."""


class ChunkedImage:
    """One case's image in its files, whose axes are canonical.

    Args:
        paths: OME-Zarr images of one or more channels each, on one grid.

    Attributes:
        native: The grid.
        channels: Number of channels.
        dtype: Type of the values that are read.
        fill: Per channel what replaces values that are not finite; None: they stay.

    Raises:
        UserError: If a file cannot be read, or lies on another grid.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        check_packages(paths)
        self._images: list[ome_zarr.ZarrImage] = []
        for path in paths:
            with readable(path):
                image = ome_zarr.opened(path)
            check_affine(image.header, path)
            self._images.append(image)
            check_same_grid(self._images[0].header, image.header, paths[0], path)
        self._paths = tuple(paths)
        self.native: Grid = self._images[0].header.grid
        self.channels = sum(image.header.channels for image in self._images)
        stored = np.result_type(*(image.header.dtype for image in self._images))
        self.dtype = working_dtype(stored, label=False)
        self.fill: np.ndarray | None = None

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Voxels of a chunk along ``(x, y, z)``."""
        return self._images[0].chunks

    def read(self, box: Box) -> np.ndarray:
        """The values ``(channel, x, y, z)`` of a box of ``(x, y, z)``.

        Raises:
            UserError: If a chunk is damaged.
        """
        parts = []
        for path, image in zip(self._paths, self._images, strict=True):
            with readable(path):
                parts.append(converted(image.part(box), self.dtype))
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if self.fill is not None and not (finite := np.isfinite(values)).all():
            values = np.where(finite, values, self.fill[:, None, None, None]).astype(self.dtype)
        return values

    def parts(self) -> Iterator[tuple[Box, np.ndarray]]:
        """The whole image in boxes of whole chunks, with their values."""
        for box in boxes(self.native.shape, self.chunks, lambda size: math.prod(size) <= VOXELS_AT_ONCE):
            yield box, self.read(box)


def boxes(
    shape: tuple[int, int, int], chunks: tuple[int, int, int], fits: Callable[[tuple[int, int, int]], bool]
) -> list[Box]:
    """Boxes that cover a volume, as large as they fit; their borders lie between chunks.

    Args:
        shape: Of the volume.
        chunks: Voxels of a chunk.
        fits: Whether a box of this size may be made. One chunk is made in any case.
    """
    counts = [-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True)]

    def size() -> tuple[int, int, int]:
        x, y, z = (min(n * c, whole) for n, c, whole in zip(counts, chunks, shape, strict=True))
        return x, y, z

    while not fits(size()) and max(counts) > 1:
        longest = max(range(3), key=lambda axis: (counts[axis] > 1, size()[axis]))
        counts[longest] = -(-counts[longest] // 2)
    axes = [
        [slice(start, min(start + step, whole)) for start in range(0, whole, step)]
        for whole, step in zip(shape, size(), strict=True)
    ]
    return [(x, y, z) for x, y, z in itertools.product(*axes)]
