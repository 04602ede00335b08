"""OME-Zarr: what other programs write is read, what is written they read, and what is not an image is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr

from seg_transfer.data.formats import is_raster, is_there, read_array, read_header, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import UserError
from seg_transfer.util.files import file_digest, file_stamp

VALUES = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.uint16)
"""``(z, y, x)``."""
SPACE = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
SCALE = [{"type": "scale", "scale": [2000.0, 500.0, 250.0]}, {"type": "translation", "translation": [10, 20.0, 3e3]}]


def multiscales(axes: list[Any], transforms: list[dict[str, Any]], **more: object) -> list[dict[str, Any]]:
    return [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}], **more}]


def written(folder: Path, values: np.ndarray, described: Any, *, version: int = 2, **options: Any) -> Path:
    """An image of one resolution, as other programs write it."""
    group = zarr.open_group(folder, mode="w", zarr_format=version)
    group.create_array("0", data=values, **options)
    if version == 2:
        group.attrs["multiscales"] = described
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": described}
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_space_alone(version: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.zarr", VALUES, multiscales(SPACE, SCALE), version=version, chunks=(2, 4, 4))
    array, header = read_array(path, label=False)
    np.testing.assert_array_equal(array, VALUES.T[np.newaxis])
    assert header.dtype == np.uint16 and header.grid.unit == "mm" and not header.grid.flat
    np.testing.assert_allclose(header.affine[:3], [[0.25, 0, 0, 3], [0, 0.5, 0, 0.02], [0, 0, 2, 0.01]])
    assert is_there(path) and not is_raster(path)


def test_five_axes_of_a_series_as_bioformats2raw_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    axes = [{"name": "t", "type": "time", "unit": "second"}, {"name": "c", "type": "channel"}, *SPACE]
    whole = {"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2.0, 1, 1]}]}
    values = np.stack([VALUES, VALUES + 1])[np.newaxis]
    written(path / "0", values, multiscales(axes, [{"type": "scale", "scale": [1, 1, 3.0, 4, 5]}], **whole))
    zarr.open_group(path, mode="a", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    array, header = read_array(path, label=False)
    np.testing.assert_array_equal(array, values[0].transpose(0, 3, 2, 1))
    np.testing.assert_allclose(header.grid.spacing, (0.005, 0.004, 0.006))
    written(path / "1", values, multiscales(axes, [{"type": "scale", "scale": [1, 1, 3.0, 4, 5]}]))
    with pytest.raises(UserError, match="several images"):
        read_header(path)


def test_a_2d_image_without_a_unit_is_one_of_pixels(tmp_path: Path) -> None:
    axes = [{"name": name, "type": "space"} for name in "yx"]
    path = written(tmp_path / "a.zarr", VALUES[0] > 500, multiscales(axes, [{"type": "scale", "scale": [3, 3]}]))
    array, header = read_array(path, label=True)
    np.testing.assert_array_equal(array[0, ..., 0], VALUES[0].T > 500)
    assert array.dtype == np.uint8 and header.grid.spacing == (1, 1, 1) and is_raster(path)


@pytest.mark.parametrize("flat", [True, False])
def test_label_maps_are_read_by_another_program(flat: bool, tmp_path: Path) -> None:
    affine = np.diag([0.25, 0.5, 1.0 if flat else 2.0, 1.0])
    affine[:3, 3] = (3, 4, 0 if flat else 5)
    grid = Grid((300, 7, 1 if flat else 5), affine, flat=flat)
    labels = np.random.default_rng(1).integers(0, 3, grid.shape).astype(np.uint8)
    path = tmp_path / "a.ome.zarr"
    for values in (labels * 0, labels):  # the second one replaces the first
        write_volume(path, values, grid, {"liver": 1, "spleen": 2})
    assert list(tmp_path.iterdir()) == [path]
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    found = tensorstore.open(store, read=True).result()
    np.testing.assert_array_equal(found.read().result().T, labels[..., 0] if flat else labels)
    content = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    (described,) = content["multiscales"]
    assert [axis["name"] for axis in described["axes"]] == list("yx" if flat else "zyx")
    assert found.domain.labels == tuple("yx" if flat else "zyx")
    scales = [each["coordinateTransformations"][0]["scale"] for each in described["datasets"]]
    assert scales == ([[0.5, 0.25], [0.5, 0.5]] if flat else [[2.0, 0.5, 0.25], [2.0, 0.5, 0.5]])
    assert content["image-label"]["properties"][1] == {"label-value": 2, "name": "spleen"}
    store["kvstore"]["path"] = str(path / "1")
    halved = tensorstore.open(store, read=True).result().read().result().T
    np.testing.assert_array_equal(halved, (labels[..., 0] if flat else labels)[::2])
    array, header = read_array(path, label=True)
    np.testing.assert_array_equal(array[0], labels)
    np.testing.assert_allclose(header.affine, affine)


def test_digest_and_stamp_are_of_all_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_volume(path, VALUES, Grid(VALUES.shape, np.eye(4)))
    before = file_digest(path), file_stamp(path)
    (chunk,) = [each for each in (path / "0").rglob("*") if each.is_file() and each.name != "zarr.json"]
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert file_digest(path) != before[0] and file_stamp(path) != before[1]


def pickled(folder: Path) -> Path:
    """Chunks that would be unpickled."""
    path = written(folder / "a.zarr", VALUES, multiscales(SPACE, SCALE), filters=[numcodecs.Delta(dtype="<u2")])
    described = json.loads((path / "0/.zarray").read_text())
    (path / "0/.zarray").write_text(json.dumps(described | {"filters": [{"id": "pickle"}]}))
    return path


def damaged(folder: Path) -> Path:
    path = written(folder / "a.zarr", VALUES, multiscales(SPACE, SCALE))
    (chunk,) = [each for each in (path / "0").rglob("*") if each.is_file() and not each.name.startswith(".")]
    chunk.write_bytes(chunk.read_bytes()[:40])
    return path


def sharded_and_cut(folder: Path) -> Path:
    options = {"shards": (6, 6, 8), "chunks": (3, 3, 4)}
    path = written(folder / "a.zarr", VALUES, multiscales(SPACE, SCALE), version=3, **options)
    np.testing.assert_array_equal(read_array(path, label=False)[0][0], VALUES.T)
    shard = path / "0/c/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-40])
    return path


def larger_than_memory(folder: Path) -> Path:
    path = folder / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=(2**15,) * 3, chunks=(64, 64, 64), dtype="u2")
    group.attrs["multiscales"] = multiscales(SPACE, SCALE)
    return path


def of_huge_chunks(folder: Path) -> Path:
    path = folder / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=(2048, 2048, 2048), chunks=(2048, 2048, 2048), dtype="u2")
    group.attrs["multiscales"] = multiscales(SPACE, SCALE)
    return path


def described_as(described: Any, values: np.ndarray = VALUES) -> Callable[[Path], Path]:
    return lambda folder: written(folder / "a.zarr", values, described)


def empty(folder: Path) -> Path:
    (folder / "a.zarr").mkdir()
    return folder / "a.zarr"


TIMES = [{"name": "t", "type": "time"}, *SPACE[1:]]
FEET = [{"name": name, "type": "space", "unit": "foot"} for name in "zyx"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pickled, "pickle"),
        (damaged, "cannot be read: the chunk 0/0.0.0 has 40 bytes, not"),
        (sharded_and_cut, "cannot be read"),
        (larger_than_memory, "values need"),
        (of_huge_chunks, r"one of its chunks has 17\.2 GB"),
        (described_as(multiscales(SPACE, SCALE) * 2), "holds 2 images"),
        (described_as({}), "holds no images"),
        (described_as(multiscales(TIMES, SCALE)), "it has 5 time points"),
        (described_as(multiscales(FEET, SCALE)), "the unit 'foot'"),
        (described_as(multiscales(SPACE, [{"type": "scale", "scale": [1, 2]}])), "has not one number for each"),
        (described_as(multiscales(SPACE, [{"type": "rotation", "rotation": []}])), "transform 'rotation' is not read"),
        (described_as(multiscales(SPACE, [{"type": "scale", "scale": [1, -1, 1]}])), "its scale"),
        (described_as(multiscales([*SPACE[:2], SPACE[1]], SCALE)), "its axes are z, y, y"),
        (described_as([{"axes": SPACE, "datasets": [{"path": "../b"}]}]), "cannot be read"),
        (described_as([{"axes": SPACE}]), "cannot be read"),
        (described_as(multiscales(SPACE, SCALE), VALUES.astype("U3")), "not numbers"),
        (empty, "cannot be read"),
        (lambda folder: folder / "none.zarr", "there is no such file"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        read_array(path, label=False)
    assert refused.value.where == path and "\n" not in refused.value.what


def test_a_file_of_this_name_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    path.write_text("mine")
    with pytest.raises(UserError, match="this is a file"):
        write_volume(path, VALUES, Grid(VALUES.shape, np.eye(4)))
    assert path.read_text() == "mine"
