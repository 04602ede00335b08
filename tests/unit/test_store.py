"""The preprocessed store: whole cases, patch-wise reading, refusal of what does not fit."""

from __future__ import annotations

import errno
from pathlib import Path

import blosc2
import numpy as np
import pytest
from made_plans import data_plan

from seg_transfer.data.image import image_from_array
from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import Channel, Normalization
from seg_transfer.preprocessing import store as store_module
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import CHUNK, Store


def filled(folder: Path) -> tuple[Store, np.ndarray, np.ndarray]:
    image = image_from_array(np.random.default_rng(0).normal(size=(40, 50, 20)), (1.0, 1.0, 3.0))
    labels = np.zeros((40, 50, 20), np.uint8)
    labels[10:20, 5:9, 3:5] = 2
    transform = CaseTransform.fit(image, data_plan())
    array, label = transform.image(image), transform.label(labels)
    store = Store.create(folder, data_plan())
    store.add("one", [(0, 0, array[0])], label, transform)
    return store, array, label


def test_a_case_comes_back_as_it_was_added(tmp_path: Path) -> None:
    _, array, label = filled(tmp_path)
    store = Store.open(tmp_path, data_plan())
    assert store.cases() == ["one"]
    case = store.case("one")
    assert case.shape == case.image.shape[1:] == case.label.shape == (20, 40, 50)
    np.testing.assert_array_equal(case.image[:, 3:9, 30:40, 7:50], array[:, 3:9, 30:40, 7:50])
    np.testing.assert_array_equal(case.label[...], label)
    assert case.voxels == (40 * 50 * 20 - 80, 0, 80)
    assert set(case.locations) == {2}
    np.testing.assert_array_equal(case.locations[2], np.argwhere(label == 2))
    assert case.transform.shape == (20, 40, 50)


def test_slabs_are_stored_as_the_whole_array_is(tmp_path: Path) -> None:
    image = image_from_array(np.random.default_rng(0).normal(size=(2, 150, 30, 37)), (1.0, 1.0, 3.0))
    data = data_plan(
        channels=tuple(Channel(name=name, normalization=Normalization(kind="zscore")) for name in "ab"), axes=(2, 0, 1)
    )
    transform = CaseTransform.fit(image, data)
    label = np.zeros(transform.shape, np.uint8)
    store = Store.create(tmp_path, data)
    store.add("whole", [(index, 0, channel) for index, channel in enumerate(transform.image(image))], label, transform)
    store.add("slabs", transform.slabs(image), label, transform)
    np.testing.assert_array_equal(store.case("whole").image[...], transform.image(image))
    np.testing.assert_array_equal(store.case("slabs").image[...], transform.image(image))
    sizes = {(tmp_path / case / "image.b2nd").stat().st_size for case in ("whole", "slabs")}
    assert max(sizes) < 1.01 * min(sizes)  # nothing is written twice


def test_a_patch_is_read_without_the_rest(tmp_path: Path) -> None:
    """All chunks but those of the patch are destroyed; whoever touched them would fail."""
    image = image_from_array(np.random.default_rng(0).normal(size=(300, 280, 40)), (1.0, 1.0, 3.0))
    transform = CaseTransform.fit(image, data_plan())
    array = transform.image(image)
    store = Store.create(tmp_path, data_plan())
    store.add("one", transform.slabs(image), np.zeros(transform.shape, np.uint8), transform)
    stored = store.case("one").image
    assert stored.chunks == (1, *CHUNK)
    per_axis = [-(-size // chunk) for size, chunk in zip(stored.shape, stored.chunks, strict=True)]
    path = tmp_path / "one" / "image.b2nd"
    opened = blosc2.open(str(path))
    schunk = opened.schunk
    assert per_axis == [1, 3, 3, 3] and schunk.nchunks == 27
    needed = int(np.ravel_multi_index((0, 1, 2, 0), per_axis))
    chunks = [schunk.get_chunk(number) for number in range(27)]

    content = bytearray(path.read_bytes())
    for number, chunk in enumerate(chunks):
        if number != needed:
            place = content.find(chunk)
            assert place > 0
            content[place + 32 : place + len(chunk)] = b"\xff" * (len(chunk) - 32)  # opening looks at a chunk's header
    path.write_bytes(content)
    case = Store.open(tmp_path, data_plan()).case("one")
    np.testing.assert_array_equal(case.image[0, 18:30, 256:280, 5:128], array[0, 18:30, 256:280, 5:128])
    with pytest.raises(UserError, match=r"image\.b2nd: this file .* is damaged"):
        case.image[0, 18:30, 250:280, 5:128]


def test_a_case_is_replaced_if_it_was_made_from_other_files(tmp_path: Path) -> None:
    store, array, label = filled(tmp_path)
    transform = store.case("one").transform
    for sources, value, stays in ((["a 1"], 1, False), (["a 1"], 2, True), (["a 2"], 3, False)):
        before = (tmp_path / "one").stat().st_ino
        store.add("one", [(0, 0, np.full_like(array[0], value))], label, transform, sources=sources)
        assert ((tmp_path / "one").stat().st_ino == before) == stays
        assert store.case("one").sources == tuple(sources)
    assert store.case("one").image[0, 0, 0, 0] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "plan-data.json"]


def test_locations_stay_on_disk(tmp_path: Path) -> None:
    store, _, label = filled(tmp_path)
    places = store.case("one").locations[2]
    assert isinstance(places, np.memmap)
    assert len(places) == (label == 2).sum()
    label[:] = 0
    store.add("healthy", [(0, 0, store.case("one").image[0])], label, store.case("one").transform)
    assert store.case("healthy").locations == {}


def test_what_is_not_annotated_is_stored_as_the_class_after_the_last(tmp_path: Path) -> None:
    data = data_plan(ignore=9)
    image = image_from_array(np.ones((6, 6, 4), np.float32), (1.0, 1.0, 3.0))
    labels = np.full((6, 6, 4), 3, np.uint8)
    labels[:, :, 1] = 0
    labels[2, 2:4, 1] = 2
    transform = CaseTransform.fit(image, data)
    store = Store.create(tmp_path, data)
    store.add("one", transform.slabs(image), transform.label(labels), transform)
    case = store.case("one")
    assert case.voxels == (34, 0, 2, 108)
    assert case.locations[2].tolist() == [[1, 2, 2], [1, 2, 3]]
    assert case.locations["annotated"].tolist() == [[1, u, v] for u in range(6) for v in range(6)]


def test_a_copy_on_another_disk_is_made_once_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, array, label = filled(tmp_path / "store")
    copy = store.copied_into(tmp_path / "scratch")
    assert copy.folder == tmp_path / "scratch" / "store" and copy.cases() == ["one"]
    np.testing.assert_array_equal(copy.case("one").image[...], array[None, 0])
    np.testing.assert_array_equal(copy.case("one").label[...], label)
    made = copy.folder / "one" / "image.b2nd"
    before = made.stat().st_mtime_ns, made.stat().st_ino
    store.copied_into(tmp_path / "scratch")
    assert (made.stat().st_mtime_ns, made.stat().st_ino) == before
    made.write_bytes(made.read_bytes()[:-7])
    store.copied_into(tmp_path / "scratch")
    np.testing.assert_array_equal(Store.open(copy.folder, data_plan()).case("one").image[...], array[None, 0])
    monkeypatch.setattr(store_module.shutil, "copytree", _full)
    with pytest.raises(UserError, match="disk"):
        store.copied_into(tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere" / "store").iterdir()] == ["plan-data.json"]


def _full(source: Path, target: Path) -> None:
    target.mkdir()
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_store_of_another_plan_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    other = data_plan(spacing=(3.0, 1.0, 1.1))
    for opener in (Store.open, Store.create):
        with pytest.raises(UserError, match="the store was made with"):
            opener(tmp_path, other)
    with pytest.raises(UserError, match="no preprocessed store"):
        Store.open(tmp_path / "nowhere", other)
    with pytest.raises(UserError, match="case two is not preprocessed"):
        Store.open(tmp_path, data_plan()).case("two")


def test_an_interrupted_case_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "sample_locations", stop)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan-data.json"]
    assert Store.open(tmp_path, data_plan()).cases() == []
