"""Damage of the preprocessed store: every changed byte is noticed before it is used, and made good again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_balls import make_dataset
from made_plans import data_plan
from made_work import ball_plan

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.data.image import image_from_array
from seg_transfer.errors import UserError
from seg_transfer.preprocessing import checked_array
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.cases import preprocess_dataset
from seg_transfer.preprocessing.store import Store, StoredCase
from seg_transfer.workflow.work_folder import WorkFolder

FILES = ("image.b2nd", "label.b2nd", "locations.npy", "case.json")


def filled(folder: Path) -> Store:
    """A case of several chunks, some of them empty."""
    generator = np.random.default_rng(0)
    volume = generator.normal(size=(150, 140, 20))
    volume[:, :, 16:] = 0
    image = image_from_array(volume, (1.0, 1.0, 3.0))
    labels = np.zeros((150, 140, 20), np.uint8)
    labels[10:40, 5:90, 3:5] = 2
    transform = CaseTransform.fit(image, data_plan())
    store = Store.create(folder, data_plan())
    store.add("one", transform.slabs(image), transform.label(labels), transform, sources=["a"])
    return store


def content(case: StoredCase) -> tuple[object, ...]:
    """All of a case."""
    places = {key: np.asarray(value).tolist() for key, value in case.locations.items()}
    return case.image[:].tobytes(), case.label[...].tobytes(), places, case.voxels, case.transform, case.sources


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_or_changes_nothing(tmp_path: Path, name: str) -> None:
    whole = content(filled(tmp_path).case("one"))
    file = tmp_path / "one" / name
    before = file.read_bytes()
    generator = np.random.default_rng(1)
    ends = [*range(0, min(220, len(before)), 3), *range(len(before) - 120, len(before), 3)]  # headers, index, trailer
    noticed = 0
    for place in [*ends, *generator.integers(0, len(before), 50).tolist()]:
        changed = bytearray(before)
        changed[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(changed)
        try:
            found = content(Store.open(tmp_path, data_plan()).case("one"))
        except UserError as error:
            noticed += 1
            assert str(file) in str(error) and "segtl preprocess" in str(error)
        else:
            assert found == whole, place
    assert noticed > 0.9 * len(ends)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 40, -1])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, name: str, length: int) -> None:
    filled(tmp_path)
    file = tmp_path / "one" / name
    file.write_bytes(file.read_bytes()[: -20 if length < 0 else length])
    with pytest.raises(UserError, match=name):
        content(Store.open(tmp_path, data_plan()).case("one"))
    file.unlink()
    with pytest.raises(UserError, match=name):
        content(Store.open(tmp_path, data_plan()).case("one"))


def test_files_of_two_cases_do_not_mix(tmp_path: Path) -> None:
    store = filled(tmp_path)
    one = store.case("one")
    store.add("two", [(0, 0, one.image[0] + 1)], one.label[...], one.transform)
    (tmp_path / "two" / "image.b2nd").replace(tmp_path / "one" / "image.b2nd")
    with pytest.raises(UserError, match=r"image\.b2nd"):
        content(Store.open(tmp_path, data_plan()).case("one"))


def test_a_chunk_is_checked_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    store = Store.open(tmp_path, data_plan())
    asked: list[int] = []
    checksum = checked_array.CheckedArray._checksum
    monkeypatch.setattr(
        checked_array.CheckedArray, "_checksum", lambda self, number: asked.append(number) or checksum(self, number)
    )
    assert store.case("one").image.shape == (1, 20, 150, 140)
    _ = store.case("one").image[:, 0:4, 0:128, 127]
    assert asked == [0]
    _ = store.case("one").image[0, -1, 100:150, 2:130]
    assert asked == [0, 4, 5, 6, 7]
    _ = store.case("one").image[0], store.case("one").image[..., 3:3]
    assert asked == [0, 4, 5, 6, 7, 1, 2, 3]
    store.add("one", [(0, 0, store.case("one").image[0])], store.case("one").label[...], store.case("one").transform)
    _ = store.case("one").image[:, 0:4, 0:128, 127]
    assert asked.count(0) > 1  # another case of the same name


def test_a_store_of_an_earlier_release_is_read_unchecked(tmp_path: Path) -> None:
    whole = content(filled(tmp_path).case("one"))
    file = tmp_path / "one" / "case.json"
    record = json.loads(file.read_text())
    del record["digests"], record["digest"]
    file.write_text(json.dumps(record | {"version": 1}))
    assert content(Store.open(tmp_path, data_plan()).case("one")) == whole


def test_damaged_cases_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By `segtl preprocess` whatever is damaged; before training what is cheap to see."""
    data = make_dataset(tmp_path / "balls", cases=3)
    work = WorkFolder(tmp_path / "work")
    dataset = find_dataset(data)
    dataset.save(work.dataset)
    plan = ball_plan(dataset, "2d")
    plan.save(work.plan)
    store = Store(seg_transfer.preprocess(work=work.path, workers=0), plan.data)
    whole = {case: content(store.case(case)) for case in store.cases()}
    for case, name in zip(store.cases(), ("image.b2nd", "locations.npy", "case.json"), strict=True):
        file = store.folder / case / name
        changed = bytearray(file.read_bytes())
        changed[len(changed) // 2] ^= 8
        file.write_bytes(changed)
    kept = {path: path.stat().st_ino for path in store.folder.glob("*/image.b2nd")}
    assert preprocess_dataset(dataset, plan.data, store.folder, workers=0) == {}
    replaced = [path.parent.name for path, number in kept.items() if path.stat().st_ino != number]
    assert replaced == [store.cases()[2]]
    caplog.clear()
    seg_transfer.preprocess(work=work.path, workers=0)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["preprocessed again"] * 2
    store = Store.open(store.folder, plan.data)
    assert {case: content(store.case(case)) for case in store.cases()} == whole
    assert sorted(path.name for path in store.folder.iterdir()) == [*store.cases(), "plan-data.json"]
