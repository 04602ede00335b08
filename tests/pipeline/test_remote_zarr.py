"""OME-Zarr in a bucket: chunks are read from there, and label maps sent there, without a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from made_balls import LOCAL
from made_bucket import Bucket
from made_work import exported_balls

import seg_transfer
from seg_transfer.data.formats import read_array, write_volume
from seg_transfer.data.geometry import Grid
from seg_transfer.errors import SomeCasesFailed
from seg_transfer.util.addresses import path_of
from seg_transfer.util.files import file_digest, file_stamp


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model of random weights."""
    return exported_balls(tmp_path_factory.mktemp("model"))


def image(folder: Path, seed: int = 0) -> np.ndarray:
    """Write an image and return it."""
    array = np.random.default_rng(seed).normal(100, 30, (40, 36, 12)).astype(np.float32)
    write_volume(folder / "a.ome.zarr", array, Grid(array.shape, np.diag([1.0, 1.0, 2.5, 1.0])))
    return array


def test_label_maps_equal_local_ones_and_are_made_once(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    array = image(tmp_path / "in")
    seg_transfer.predict(tmp_path / "in", tmp_path / "out", model=model, **LOCAL)
    address, output = bucket.put(tmp_path / "in", "in"), bucket.address("out")
    seg_transfer.predict(address, output, model=model, **LOCAL)
    local = {each.relative_to(tmp_path / "out").as_posix(): each for each in (tmp_path / "out").rglob("*")}
    files = {name for name, each in local.items() if each.is_file() and not name.startswith(".")}
    assert bucket.keys("out") == files
    chunks = {name for name in files if name.startswith("a.ome.zarr")}
    assert all(bucket.read(f"out/{name}") == local[name].read_bytes() for name in chunks)
    copy = path_of(bucket.address("in/a.ome.zarr"))
    assert copy.is_dir() and not list(copy.iterdir()) and not list(path_of(f"{output}/a.ome.zarr").iterdir())
    np.testing.assert_array_equal(read_array(copy, label=False)[0][0], array)
    before = bucket.read("out/predictions.json")
    seg_transfer.predict(address, output, model=model, **LOCAL)
    assert bucket.read("out/predictions.json") == before, "it is skipped"
    digest, stamp = file_digest(copy), file_stamp(copy)
    image(tmp_path / "in", seed=1)
    bucket.put(tmp_path / "in", "in")
    assert file_digest(copy) != digest and file_stamp(copy) != stamp
    seg_transfer.predict(address, output, model=model, **LOCAL)
    assert bucket.read("out/predictions.json") != before
    assert bucket.keys("out") == files
    assert seg_transfer.evaluate(output, output, workers=0).cases.keys() == {"a"}


def test_what_is_left_of_a_larger_label_map_vanishes(bucket: Bucket) -> None:
    path = path_of(bucket.address("a.ome.zarr"))
    for size in (300, 100):
        write_volume(path, np.ones((size, 20, 20), np.uint8), Grid((size, 20, 20), np.eye(4)))
        np.testing.assert_array_equal(read_array(path, label=True)[0], np.ones((1, size, 20, 20)))
    assert bucket.keys("a.ome.zarr") == {"zarr.json", "0/zarr.json", "0/c/0/0/0"}


def test_a_broken_chunk_is_a_failed_case(bucket: Bucket, model: Path, tmp_path: Path) -> None:
    image(tmp_path / "in")
    address = bucket.put(tmp_path / "in", "in")
    bucket.client.put_object(Bucket=bucket.name, Key="in/a.ome.zarr/0/c/0/0/0", Body=b"broken")
    with pytest.raises(SomeCasesFailed, match="cannot be read"):
        seg_transfer.predict(address, bucket.address("out"), model=model, **LOCAL)
    assert not {key for key in bucket.keys("out") if "zarr" in key}


def test_a_fixed_copy_of_a_data_set_has_the_images(bucket: Bucket, tmp_path: Path) -> None:
    array = image(tmp_path / "set/images")
    labels = (array > 100).astype(np.uint8)
    write_volume(tmp_path / "set/labels/a.ome.zarr", labels, Grid(labels.shape, np.diag([1.0, 1.0, 2.5, 1.0])))
    address = bucket.put(tmp_path / "set", "set")
    seg_transfer.check(address, fix=tmp_path / "fixed", workers=0)
    np.testing.assert_array_equal(read_array(tmp_path / "fixed/images/a.ome.zarr", label=False)[0][0], array)
    np.testing.assert_array_equal(read_array(tmp_path / "fixed/labels/a.ome.zarr", label=True)[0][0], labels)


def test_objects_in_memory(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGTL_CACHE", str(tmp_path / "cache"))
    path = path_of("memory://bucket/a.zarr")
    write_volume(path, np.ones((9, 8, 7), np.uint8), Grid((9, 8, 7), np.eye(4)))
    assert read_array(path, label=True)[0].all() and not list(path.iterdir())
    assert zarr.open_group("memory://bucket/a.zarr", mode="r")["0"].shape == (7, 8, 9)
