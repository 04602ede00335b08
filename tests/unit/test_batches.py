"""Patches: where they lie, what pads them, and that a step always gets the same batch."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from made_plans import data_plan

from seg_transfer.data.image import image_from_array
from seg_transfer.inference.sliding_window import predict_slabs
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store, StoredCase
from seg_transfer.training.batches import OPEN_CASES, Batch, PatchSampler, ReadAhead
from seg_transfer.training.losses import IGNORE

SHAPES = {"a": (6, 20, 24), "b": (9, 12, 30), "c": (5, 25, 16)}
RARE = (2, 7, 11)  # the only voxel of label 2, in case a


def value_at(case: int, where: np.ndarray) -> np.ndarray:
    """An image whose values identify voxel and case."""
    return (1 + case) * 10**6 + where[0] * 10**4 + where[1] * 100 + where[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = DataPlan.model_validate(
        {
            "dataset": "places",
            "dimension": 3,
            "unit": "mm",
            "channels": [{"name": name, "normalization": {"kind": "none"}} for name in ("where", "minus")],
            "labels": [{"name": name, "value": value} for value, name in enumerate(("background", "some", "rare"))],
            "cases": list(SHAPES),
            "axes": (0, 1, 2),
            "spacing": (1.0, 1.0, 1.0),
            "crop_nonzero": False,
            "slice_order": 1,
        }
    )
    store = Store.create(tmp_path_factory.mktemp("store") / "x", data)
    for index, (case, shape) in enumerate(SHAPES.items()):
        values = value_at(index, np.indices(shape)).astype(np.float32)
        label = np.zeros(shape, np.uint8)
        label[:, 4:10, 5:15] = 1
        if case == "a":
            label[RARE] = 2
        transform = CaseTransform.fit(image_from_array(np.stack([values, -values]), (1, 1, 1)), data)
        store.add(case, [(0, 0, values), (1, 0, -values)], label, transform)
    return store


def model_of(configuration: str, patch: tuple[int, int, int]) -> ModelPlan:
    return ModelPlan.model_validate(
        {
            "configuration": configuration,
            "patch": patch,
            "encoder": "resnet18",
            "weights": {"source": "none"},
            "stages": 1,
            "slice_strides": (1,) if configuration == "3d" else (),
            "input_mapping": "as_is",
            "decoder_channels": (8,),
        }
    )


def sampler_of(store: Store, configuration: str, patch: tuple[int, int, int], **changes) -> PatchSampler:  # type: ignore[no-untyped-def]
    options = {"batch_size": 4, "foreground_share": 0.5, "seed": 0, "cache_bytes": 10**9} | changes
    return PatchSampler(store, options.pop("cases", tuple(SHAPES)), model_of(configuration, patch), **options)


@pytest.mark.parametrize(
    ("configuration", "patch", "slices"), [("2d", (1, 8, 10), 1), ("2.5d", (3, 8, 10), 1), ("3d", (4, 8, 10), 4)]
)
def test_shapes_and_types(store: Store, configuration: str, patch: tuple[int, int, int], slices: int) -> None:
    image, label = sampler_of(store, configuration, patch).batch(0)
    assert image.shape == (4, 2, *patch) and image.dtype == torch.float32
    assert label.shape == (4, slices, *patch[1:]) and label.dtype == torch.int64
    assert torch.equal(image[:, 0], -image[:, 1])


def test_a_patch_is_one_piece_of_one_case_with_its_label(store: Store) -> None:
    sampler = sampler_of(store, "3d", (4, 8, 10), batch_size=6)
    for step in range(10):
        for image, label in zip(*sampler.batch(step), strict=True):
            first = int(image[0, 0, 0, 0])
            case, start = first // 10**6 - 1, [first // 10**4 % 100, first // 100 % 100, first % 100]
            box = tuple(slice(s, s + n) for s, n in zip(start, (4, 8, 10), strict=True))
            name = list(SHAPES)[case]
            assert np.array_equal(image[0], store.case(name).image[(0, *box)])
            assert np.array_equal(label, store.case(name).label[box])


def test_a_step_has_the_same_batch_however_it_is_read(store: Store) -> None:
    held, read = (sampler_of(store, "2.5d", (3, 8, 10), cache_bytes=limit) for limit in (10**9, 0))
    assert held.cached and not read.cached
    again = sampler_of(store, "2.5d", (3, 8, 10))
    for _ in range(3):
        again.batch(99)  # a step does not depend on what was drawn before
    ahead = ReadAhead(read.batch, workers=1)
    for step in range(6):
        expected = held.batch(step)
        for other in (read.batch(step), again.batch(step), ahead(step)):
            assert torch.equal(expected.image, other.image) and torch.equal(expected.label, other.label)
    ahead.close()


def test_few_cases_are_open_however_many_there_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref] = []
    open_case = Store.case

    def noted(self: Store, case: str) -> StoredCase:
        found = open_case(self, case)
        opened.append(weakref.ref(found))
        return found

    many = tuple(SHAPES) * 20
    expected = sampler_of(store, "3d", (4, 8, 10), cases=many, batch_size=30)
    monkeypatch.setattr(Store, "case", noted)
    sampler = sampler_of(store, "3d", (4, 8, 10), cases=many, batch_size=30, cache_bytes=0)
    for step in range(4):
        one, other = expected.batch(step), sampler.batch(step)
        assert torch.equal(one.image, other.image) and torch.equal(one.label, other.label)
    gc.collect()
    assert len(opened) > 60
    assert sum(case() is not None for case in opened) <= 2 * OPEN_CASES


def test_steps_streams_and_seeds_differ(store: Store) -> None:
    sampler = sampler_of(store, "2d", (1, 8, 10))
    images = [
        sampler.batch(0).image,
        sampler.batch(1).image,
        sampler.batch(0, "validate").image,
        sampler_of(store, "2d", (1, 8, 10), seed=1).batch(0).image,
    ]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[i + 1 :])


def test_a_small_label_is_as_likely_as_a_large_one(store: Store) -> None:
    sampler = sampler_of(store, "2d", (1, 3, 3), cases=("a",), foreground_share=1.0)
    middles = torch.cat([sampler.batch(step).label[:, 0, 1, 1] for step in range(100)])
    assert (middles != 0).all()
    assert (middles == 2).float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_a_label_of_one_case_is_as_likely_as_one_of_all_cases(store: Store) -> None:
    """Drawn by case first, the rare label would be seen in a sixth of the patches: half of a third of the cases."""
    sampler = sampler_of(store, "2d", (1, 3, 3), batch_size=3, foreground_share=1.0)
    labels = torch.cat([sampler.batch(step).label[:, 0, 1, 1] for step in range(200)])
    assert (labels == 2).float().mean().item() == pytest.approx(0.5, abs=0.06)
    drawn = [sampler.foreground_patches(1, (), np.random.default_rng(seed))[0] for seed in range(600)]
    common = [case for case, label in drawn if label == 1]
    assert np.bincount(common, minlength=3) / len(common) == pytest.approx([1 / 3] * 3, abs=0.08)


def test_a_label_of_a_ten_thousandth_of_the_voxels_is_seen_as_often_as_a_large_one(tmp_path: Path) -> None:
    """One of 8 cases holds 0.01 % of all voxels as label 2; half of 2,000 patches are centred on a label."""
    shape = (5, 40, 50)
    data = data_plan(cases=tuple("abcdefgh"), axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0))
    made = Store.create(tmp_path / "x", data)
    for case in data.cases:
        label = np.zeros(shape, np.uint8)
        label[:, 10:30, 10:30] = 1
        if case == "c":
            label[2, 5, 20:28] = 2
        image = np.zeros((1, *shape), np.float32)
        made.add(case, [(0, 0, image[0])], label, CaseTransform.fit(image_from_array(image, (1, 1, 1)), data))
    assert made.case("c").voxels[2] / (8 * label.size) == 0.0001
    sampler = sampler_of(made, "2d", (1, 1, 1), cases=data.cases, batch_size=8)
    seen = torch.cat([sampler.batch(step).label.flatten() for step in range(250)])
    # half of the patches on a label, half of these on the small one; by chance the others see it almost never
    assert (seen == 2).float().mean().item() == pytest.approx(0.25, abs=0.04)
    places = torch.stack([sampler.batch(step).label.flatten() for step in range(250)])
    assert (places == 2).any(dim=1).float().mean() > 0.85  # with 4 patches on labels, 15 of 16 batches show it


def test_patches_lie_on_what_is_annotated(tmp_path: Path) -> None:
    """Every third slice is annotated; label 1 in one of them, background in the others."""
    data = data_plan(cases=("a", "b"), axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0), ignore=9)
    made = Store.create(tmp_path / "x", data)
    shape = (9, 20, 24)
    for case in data.cases:
        label = np.full(shape, 3, np.uint8)
        label[1::3, :15] = 0
        label[4, 4:8, 4:8] = 1
        image = np.zeros((1, *shape), np.float32)
        made.add(case, [(0, 0, image[0])], label, CaseTransform.fit(image_from_array(image, (1, 1, 1)), data))
    options = {"cases": data.cases, "batch_size": 4, "foreground_share": 0.5}
    single = torch.cat([sampler_of(made, "2.5d", (3, 1, 1), **options).batch(step).label for step in range(100)])
    assert set(single.unique().tolist()) == {0, 1}
    assert (single == 1).float().mean().item() == pytest.approx(0.5 + 0.5 * 16 / (3 * 15 * 24), abs=0.06)
    for step in range(30):
        label = sampler_of(made, "3d", (4, 8, 10), **options).batch(step).label
        assert (label != IGNORE).flatten(1).any(dim=1).all()
        assert set(label.unique().tolist()) <= {IGNORE, 0, 1}
        assert (label == IGNORE).any()


def test_a_case_without_annotation_is_not_drawn(tmp_path: Path) -> None:
    data = data_plan(cases=("a", "b"), axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0), ignore=9)
    made = Store.create(tmp_path / "x", data)
    for value, case in enumerate(data.cases):
        label = np.full((2, 8, 8), 3 * value, np.uint8)
        image = np.full((1, 2, 8, 8), value, np.float32)
        made.add(case, [(0, 0, image[0])], label, CaseTransform.fit(image_from_array(image, (1, 1, 1)), data))
    sampler = sampler_of(made, "2d", (1, 4, 4), cases=data.cases)
    assert all((sampler.batch(step).label == 0).all() for step in range(10))
    alone = sampler_of(made, "2d", (1, 4, 4), cases=("b",)).batch(0)
    assert (alone.label == IGNORE).all()


def test_the_share_on_labels_holds(store: Store) -> None:
    # a patch of one voxel lies on a label by chance in 60 of 400 to 480 voxels
    sampler = sampler_of(store, "2d", (1, 1, 1), batch_size=8, foreground_share=0.25)
    hits = torch.cat([(sampler.batch(step).label != 0).flatten() for step in range(200)]).float().mean().item()
    chance = 0.75 * np.mean([60 / 480, 60 / 360, 60 / 400])
    assert hits == pytest.approx(0.25 + chance, abs=0.04)


def test_a_batch_spreads_over_the_cases(store: Store) -> None:
    sampler = sampler_of(store, "2d", (1, 8, 10), batch_size=6)
    for step in range(10):
        cases = (sampler.batch(step).image[:, 0, 0, 0, 0] // 10**6).int().tolist()
        assert sorted(cases[:3]) == [1, 2, 3]  # anywhere
    # one is in the batch already: the first patch on the common label takes one of the two others
    sampler = sampler_of(store, "2d", (1, 8, 10))
    taken = [sampler.foreground_patches(1, (1,), np.random.default_rng(seed))[0] for seed in range(40)]
    assert {case for case, label in taken if label == 1} == {0, 2}
    assert {case for case, label in taken if label == 2} == {0}


def test_a_small_case_lies_in_the_middle_of_zeros_that_are_ignored(store: Store) -> None:
    sampler = sampler_of(store, "3d", (8, 30, 20), cases=("a",), batch_size=1)
    image, label = sampler.batch(0)
    assert torch.equal(image[0, 0, 1:7, 5:25] != 0, torch.ones(6, 20, 20, dtype=torch.bool))
    inside = torch.zeros(8, 30, 20, dtype=torch.bool)
    inside[1:7, 5:25] = True
    assert (image[0, :, ~inside] == 0).all()
    assert torch.equal(label[0] != IGNORE, inside)


def test_a_stack_at_the_border_repeats_the_edge_slice(store: Store) -> None:
    sampler = sampler_of(store, "2.5d", (5, 20, 24), cases=("a",), batch_size=4)
    seen = set()
    for step in range(20):
        for image, label in zip(*sampler.batch(step), strict=True):
            slices = (image[0, :, 0, 0] // 10**4 % 100).int().tolist()
            middle = slices[2]
            assert slices == [min(max(middle + offset, 0), 5) for offset in range(-2, 3)]
            assert np.array_equal(label[0], store.case("a").label[middle])
            seen.add(middle)
    assert seen == set(range(6))


def test_a_label_is_in_the_middle_where_the_border_allows(store: Store) -> None:
    sampler = sampler_of(store, "3d", (3, 5, 5), cases=("a",), foreground_share=1.0)
    labels = torch.cat([sampler.batch(step).label for step in range(50)])
    assert (labels[:, 1, 2, 2] == 2).any()
    assert (labels > 0).flatten(1).any(dim=1).all()


def test_an_error_while_reading_ahead_is_raised() -> None:
    def fail(step: int) -> Batch:
        raise ValueError(f"step {step}")

    ahead = ReadAhead(fail, workers=1)
    with pytest.raises(ValueError, match="step 3"):
        ahead(3)
    ahead.close()


@pytest.mark.parametrize(("configuration", "patch"), [("2d", (1, 32, 32)), ("2.5d", (5, 32, 32)), ("3d", (12, 32, 32))])
def test_prediction_pads_a_small_case_as_training_does(
    store: Store, configuration: str, patch: tuple[int, int, int]
) -> None:
    """The network must see the same image in training and prediction."""
    seen: list[torch.Tensor] = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        seen.extend(windows)
        return windows.new_zeros((len(windows), 2, *((patch[0] if configuration == "3d" else 1), *patch[1:])))

    image = torch.from_numpy(store.case("a").image[:])
    for _ in predict_slabs(network, image, model_of(configuration, patch), 2, axis=0):
        pass
    trained_on = sampler_of(store, configuration, patch, cases=("a",), batch_size=8).batch(0).image
    for image in trained_on:
        assert any(torch.equal(image, window) for window in seen)


@pytest.mark.parametrize("position", [False, True])
def test_the_shares_of_a_batch_are_the_batch(store: Store, position: bool) -> None:
    """Position maps, which are moved at random, included."""
    model = model_of("3d", (4, 8, 10)).model_copy(update={"position": position})
    sampler = PatchSampler(store, tuple(SHAPES), model, batch_size=5, foreground_share=0.5, seed=0, cache_bytes=10**9)
    for step in range(3):
        whole = sampler.batch(step)
        for rank in range(3):
            rows = slice(rank, None, 3)
            share = sampler.batch(step, rows=rows)
            assert torch.equal(share.image, whole.image[rows]) and torch.equal(share.label, whole.label[rows])
