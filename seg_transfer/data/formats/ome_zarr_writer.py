"""Writes OME-Zarr 0.5, chunk by chunk if the image is larger than memory.

The description comes last: until then nothing can read the folder as an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seg_transfer.data.geometry import Box, Grid

if TYPE_CHECKING:
    import zarr

CHUNK = 128
"""Voxels of a chunk along each axis."""
SMALLEST = 256
"""Images are halved until no axis is longer, so that viewers show them from far."""
_VERSION = "0.5"
_MICROSCOPE = 0.1
"""Spacings in mm below it are written in micrometers."""


def write(path: Path, array: np.ndarray, grid: Grid, names: Mapping[str, int]) -> None:
    """Write ``(i, j, k)`` or ``(channel, i, j, k)`` into an empty folder, with spacing and origin alone."""
    target = created(path, grid, array.dtype, channels=len(array) if array.ndim == 4 else None)
    values = array.T if array.ndim == 3 else array.transpose(0, 3, 2, 1)
    target[...] = values[..., 0, :, :] if grid.flat else values
    finish(path, grid, names)


def chunk_size(grid: Grid) -> tuple[int, int, int]:
    """Voxels of a written chunk along ``(i, j, k)``."""
    i, j, k = (min(CHUNK, size) for size in grid.shape)
    return i, j, k


def created(path: Path, grid: Grid, dtype: np.dtype, *, channels: int | None = None) -> zarr.Array[Any]:
    """Make an image without values; it can be read after :func:`finish`.

    Args:
        path: An empty folder, or none.
        grid: Its grid.
        dtype: Type of its values.
        channels: Channels; None for none.

    Returns:
        The array ``(z, y, x)``, of a flat grid ``(y, x)``, with the channels before it if it has them.
    """
    import zarr

    first = [] if channels is None else [channels]
    axes = ("c" if first else "") + ("yx" if grid.flat else "zyx")
    return zarr.create_array(
        str(path / "0"),
        shape=(*first, *_reversed(grid, grid.shape)),
        chunks=(*([1] if first else []), *_reversed(grid, chunk_size(grid))),
        dtype=dtype,
        dimension_names=list(axes),
    )


class NativeArray:
    """The array of :func:`created`, of one channel, as ``(i, j, k)``.

    Args:
        array: The array.
        flat: Whether it has two axes.
    """

    def __init__(self, array: zarr.Array[Any], *, flat: bool) -> None:
        self._array, self._flat = array, flat
        x, y, *z = array.shape[::-1]
        self.shape = (x, y, z[0] if z else 1)

    def __getitem__(self, box: Box) -> np.ndarray:
        values = np.asarray(self._array[self._index(box)])
        return (values[np.newaxis] if self._flat else values).T

    def __setitem__(self, box: Box, values: np.ndarray) -> None:
        self._array[self._index(box)] = values.T[0] if self._flat else values.T

    def _index(self, box: Box) -> tuple[slice, ...]:
        return tuple(box[1::-1] if self._flat else box[::-1])


def finish(path: Path, grid: Grid, names: Mapping[str, int]) -> None:
    """Add coarser resolutions, of every second voxel, and the description without which an image cannot be read.

    Args:
        path: The folder of :func:`created`.
        grid: Its grid.
        names: Of a label map: label -> its value.
    """
    import zarr

    group = zarr.open_group(path, mode="a", zarr_format=3)
    finest = group["0"]
    assert isinstance(finest, zarr.Array), "it was made"
    axes = ["c", "z", "y", "x"][-finest.ndim :] if not grid.flat else ["c", "y", "x"][-finest.ndim :]
    units = 1e3 if grid.unit == "mm" and max(grid.spacing) < _MICROSCOPE else 1.0
    scale = np.array([1.0] * axes.count("c") + _reversed(grid, grid.spacing)) * [1 if a == "c" else units for a in axes]
    origin = [0.0] * axes.count("c") + _reversed(grid, (grid.affine[:3, 3] * units).tolist())
    datasets: list[dict[str, Any]] = []
    for number, array in enumerate(_halved(group, finest, axes)):
        factor = [round(whole / size) for whole, size in zip(finest.shape, array.shape, strict=True)]
        transforms = [
            {"type": "scale", "scale": [_rounded(each) for each in scale * factor]},
            {"type": "translation", "translation": [_rounded(each) for each in origin]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": transforms})
    unit = {} if grid.unit == "pixel" else {"unit": "micrometer" if units > 1 else "millimeter"}
    described: dict[str, Any] = {
        "version": _VERSION,
        "multiscales": [
            {
                "axes": [
                    {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", **unit}
                    for axis in axes
                ],
                "datasets": datasets,
            }
        ],
    }
    if names:
        properties = [{"label-value": value, "name": name} for name, value in names.items()]
        described["image-label"] = {"properties": properties}
    group.attrs["ome"] = described


def _reversed(grid: Grid, values: Any) -> list[Any]:
    """Values along ``(i, j, k)`` in the order of the array."""
    return list(values)[1::-1] if grid.flat else list(values)[::-1]


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def _halved(group: zarr.Group, array: zarr.Array[Any], axes: list[str]) -> Iterator[zarr.Array[Any]]:
    """The array, and copies of every second voxel along its longer axes, which are made chunk by chunk."""
    yield array
    for number in itertools.count(1):
        steps = [2 if size > SMALLEST else 1 for size in array.shape]
        if max(steps) == 1:
            return
        shape = [-(-size // step) for size, step in zip(array.shape, steps, strict=True)]
        chunks = tuple(min(chunk, size) for chunk, size in zip(array.chunks, shape, strict=True))
        coarser = group.create_array(str(number), shape=shape, chunks=chunks, dtype=array.dtype, dimension_names=axes)
        for corner in itertools.product(*(range(0, n, c) for n, c in zip(shape, chunks, strict=True))):
            box = [slice(a, min(a + c, n)) for a, c, n in zip(corner, chunks, shape, strict=True)]
            source = tuple(slice(part.start * s, part.stop * s, s) for part, s in zip(box, steps, strict=True))
            coarser[tuple(box)] = array[source]
        yield coarser
        array = coarser
