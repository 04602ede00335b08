"""OME-Zarr: folders of chunks, of which parts are read (OME-NGFF 0.4 in Zarr 2, 0.5 in Zarr 3).

The first, finest resolution of an image is read. It has a spacing and an origin, but no orientation: its axes count as
x, y and z of the world. Chunks that a folder lacks hold the array's fill value, as the format says: a copy that lost
some cannot be told from one that never had them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seg_transfer.data.formats.header import Header, check_free_memory, working_dtype
from seg_transfer.data.formats.ome_zarr_writer import write
from seg_transfer.data.geometry import Box, Grid
from seg_transfer.errors import UserError
from seg_transfer.util.units import bytes_text

if TYPE_CHECKING:
    import zarr

__all__ = ["ENDINGS", "ZarrImage", "header", "opened", "read", "write"]
ENDINGS = (".ome.zarr", ".zarr")
LARGEST_CHUNK = 2**30
"""Bytes of a chunk, which is read as a whole; those of viewers have a few million."""
_MM = {
    **{"meter": 1e3, "decimeter": 1e2, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6},
    **{"picometer": 1e-9, "angstrom": 1e-7, "inch": 25.4},
}
"""OME-NGFF's name of a unit -> mm."""
_CODECS = {
    *("blosc", "bytes", "bz2", "crc32c", "endian", "gzip", "lz4", "lzma", "sharding_indexed", "transpose"),
    *("zlib", "zstd", "shuffle", "delta", "fixedscaleoffset", "bitround", "quantize", "packbits"),
    *("crc32", "adler32", "fletcher32", "jenkins_lookup3"),
}
"""What chunks may be coded by; some others run code of the file."""
_AXES = "cxyz"
_ONE_IMAGE = "export the volume that is to be segmented as an image of its own"


@dataclass(frozen=True, eq=False)
class ZarrImage:
    """The finest array of an image.

    Attributes:
        array: The array.
        axes: Name of each of its axes: x and y, and any of c, z and t.
        header: Its header.
    """

    array: zarr.Array[Any]
    axes: str
    header: Header

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Voxels of a chunk along ``(i, j, k)``."""
        i, j, k = (int(self.array.chunks[self.axes.index(axis)]) if axis in self.axes else 1 for axis in "xyz")
        return i, j, k

    def part(self, box: Box) -> np.ndarray:
        """The values ``(channel, i, j, k)`` of a box of ``(i, j, k)``."""
        chosen: dict[str, slice | int] = {**dict(zip("xyz", box, strict=True)), "t": 0, "c": slice(None)}
        values = np.asarray(self.array[tuple(chosen[axis] for axis in self.axes)])
        axes = self.axes.replace("t", "")
        for axis in _AXES:
            if axis not in axes:
                values, axes = values[np.newaxis], axis + axes
        return values.transpose([axes.index(axis) for axis in _AXES])


def opened(path: Path) -> ZarrImage:
    """Open an image; its values are read when they are asked for.

    Raises:
        UserError: If it holds no image, several or time points, or its unit or its codec is not supported.
        ValueError: If its metadata contradict themselves.
    """
    import zarr

    from seg_transfer.data.formats.zarr_store import CheckedStore

    store = CheckedStore.of(path)
    group = zarr.open_group(store, mode="r")
    described = _described(group, path)
    if described is None:
        group, described = _only_series(group, path)
    if not isinstance(described, list) or len(described) != 1:
        count = len(described) if isinstance(described, list) else "no"
        raise UserError(f"it holds {count} images (multiscales), not one", where=path, hint=_ONE_IMAGE)
    image = described[0]
    finest = image["datasets"][0]
    array = group[str(finest["path"])]
    if not isinstance(array, zarr.Array):
        raise ValueError(f"its dataset {str(finest['path'])[:60]!r} is no array")
    axes = _axes(image, array, path)
    store.blosc = _check_codecs(array, path)
    return ZarrImage(array, axes, _header(image, finest, array, axes, path))


def header(path: Path) -> Header:
    """Read the metadata."""
    return opened(path).header


def read(path: Path, *, label: bool) -> tuple[np.ndarray, Header]:
    """Read ``(channel, i, j, k)``: ``i`` runs along x, ``j`` along y, ``k`` along z."""
    image = opened(path)
    check_free_memory(image.header, working_dtype(image.header.dtype, label=label), path)
    i, j, k = map(slice, image.header.shape)
    return image.part((i, j, k)).astype(image.header.dtype, copy=False), image.header


def _described(group: zarr.Group, path: Path) -> Any:
    """The descriptions of a group's images; None if it has none."""
    attributes = group.attrs.asdict()
    ome = attributes.get("ome")
    if isinstance(ome, dict):
        return ome.get("multiscales")
    if "plate" in attributes:
        raise UserError("it is a plate of many images", where=path, hint=_ONE_IMAGE)
    return attributes.get("multiscales")


def _only_series(group: zarr.Group, path: Path) -> tuple[zarr.Group, Any]:
    """The only image in a folder of numbered images, as bioformats2raw writes them."""
    import zarr

    first = group.get("0")
    if isinstance(first, zarr.Group) and (described := _described(first, path)) is not None:
        if "1" in group:
            raise UserError("it holds several images (series)", where=path, hint=_ONE_IMAGE)
        return first, described
    hint = "write it as OME-Zarr 0.4 or 0.5, with its multiscales"
    raise UserError("it is a Zarr folder without the description of an OME-Zarr image", where=path, hint=hint)


def _axes(image: Mapping[str, Any], array: zarr.Array[Any], path: Path) -> str:
    found = [axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", "tczyx"[-array.ndim :])]
    axes = "".join(map(str, found))
    if len(axes) != array.ndim or not set("xy") <= set(axes) <= set("tcxyz") or len(set(axes)) != len(axes):
        raise UserError(
            f"its axes are {', '.join(map(str, found))[:60]}", where=path, hint="name them t, c, z, y and x"
        )
    if "t" in axes and array.shape[axes.index("t")] != 1:
        count = array.shape[axes.index("t")]
        raise UserError(f"it has {count} time points, not one", where=path, hint=_ONE_IMAGE)
    return axes


def _check_codecs(array: zarr.Array[Any], path: Path) -> bool:
    """Refuse types of values and codecs that might run code, and chunks that do not fit into memory.

    Returns:
        Whether each chunk is a buffer of Blosc.
    """
    if array.dtype.kind not in "iufb":
        raise UserError(f"its values are of the type {array.dtype}, not numbers", where=path, hint="export it again")
    content = array.metadata.to_dict()
    codecs = list(_codecs([content.get(part) for part in ("filters", "compressor", "codecs")]))
    for codec in codecs:
        if codec.removeprefix("numcodecs.") not in _CODECS:
            hint = "write its chunks with blosc, zstd or gzip"
            raise UserError(f"its chunks are coded by {codec[:60]!r}, which is not read", where=path, hint=hint)
    if (needed := math.prod(array.chunks) * array.dtype.itemsize) > LARGEST_CHUNK:
        what = f"one of its chunks has {bytes_text(needed)}, and at most {bytes_text(LARGEST_CHUNK)} are read at a time"
        raise UserError(what, where=path, hint="write it again with chunks of some million voxels")
    return codecs[-1:] == ["blosc"] and "sharding_indexed" not in codecs


def _codecs(content: Any) -> Iterator[str]:
    """Names of all codecs in a part of the metadata, those within others too."""
    if isinstance(content, Mapping):
        if name := content.get("id", content.get("name")):
            yield str(name)
        content = content.get("configuration") or {}
        content = [content.get(part) for part in ("codecs", "index_codecs")] if isinstance(content, Mapping) else []
    if isinstance(content, list | tuple):
        for each in content:
            yield from _codecs(each)


def _header(
    image: Mapping[str, Any], finest: Mapping[str, Any], array: zarr.Array[Any], axes: str, path: Path
) -> Header:
    scale, origin = np.ones(len(axes)), np.zeros(len(axes))
    for transform in [*finest.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]:
        kind = transform.get("type")
        if kind not in ("scale", "translation", "identity") or "path" in transform:
            raise UserError(
                f"its transform {str(kind)[:30]!r} is not read", where=path, hint="write scale, translation"
            )
        if kind != "identity":
            values = np.asarray(transform[kind], float)
            if values.shape != (len(axes),):
                raise ValueError(f"its {kind} has not one number for each of {len(axes)} axes")
            scale, origin = (scale * values, origin * values) if kind == "scale" else (scale, origin + values)
    described = {str(axis.get("name")): axis for axis in image.get("axes", []) if isinstance(axis, dict)}
    known = [_factor(described.get(axis, {}).get("unit"), path) for axis in "xyz" if axis in axes]
    size, step, start = [1, 1, 1], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    for number, axis in enumerate("xyz"):
        if axis in axes:
            place = axes.index(axis)
            factor = known[number] if all(known) else 1.0
            size[number] = int(array.shape[place])
            step[number], start[number] = scale[place] * factor, origin[place] * factor
    if min(size) < 1 or min(step) <= 0:
        raise ValueError(f"its shape is {tuple(array.shape)} and its scale {scale.tolist()}")
    if not all(known):
        step, start = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    affine = np.diag([*step, 1.0])
    affine[:3, 3] = start
    i, j, k = size
    grid = Grid((i, j, k), affine, unit="mm" if all(known) else "pixel", flat=k == 1)
    channels = int(array.shape[axes.index("c")]) if "c" in axes else 1
    kind_of = np.dtype(np.uint8) if array.dtype.kind == "b" else array.dtype
    return Header(grid, channels, kind_of.newbyteorder("="))


def _factor(unit: Any, path: Path) -> float:
    """Millimetres of a unit; 0 where none is given."""
    if unit is None:
        return 0.0
    if unit not in _MM:
        hint = f"write one of {', '.join(_MM)}"
        raise UserError(f"its axes have the unit {str(unit)[:30]!r}, which is not read", where=path, hint=hint)
    return _MM[unit]
