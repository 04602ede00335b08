"""Position maps: what they hold, that training and prediction see the same, and that they reach the logits."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_plans import data_plan, model_plan, plan

from seg_transfer.data.image import image_from_array
from seg_transfer.inference.known_extent import known_extent
from seg_transfer.inference.sliding_window import predict_slabs
from seg_transfer.network.build import build_network
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.plan import Augmentation, Plan
from seg_transfer.planning.rules.position import position
from seg_transfer.planning.training_images import ChannelSpread, Spread, TrainingImages
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.extent import POSITION_MAPS, Extent, ExtentSums, unknown_position
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.stored_case import CASE_FILE, CaseRecord
from seg_transfer.training.augment import apply, sample_transforms
from seg_transfer.training.batches import POSITION_UNKNOWN, PatchSampler

PATCHES = {"2d": (1, 8, 10), "2.5d": (3, 8, 10), "3d": (4, 8, 10)}
SHAPE = (9, 20, 26)
BODY = (slice(2, 7), slice(4, 10), slice(12, 26))


def body_image(channels: int = 1) -> np.ndarray:
    """A bright box in the dark."""
    image = np.full((channels, *SHAPE), -3.0, np.float32)
    image[(slice(None), *BODY)] = 5
    return image


class TestExtent:
    def test_a_uniform_body_is_its_box_wherever_it_lies_and_however_bright(self) -> None:
        extent = Extent.of(body_image())
        assert extent.middle == pytest.approx([4, 6.5, 18.5])
        assert extent.half == pytest.approx([5 / 2, 6 / 2, 14 / 2], rel=0.03)  # of a discrete box, slightly less
        brighter = Extent.of(100 * body_image() + 7)
        assert brighter.middle == pytest.approx(extent.middle) and brighter.half == pytest.approx(extent.half)

    def test_slabs_give_what_the_whole_gives(self) -> None:
        image = np.random.default_rng(0).random((2, *SHAPE), np.float32)
        sums = ExtentSums(2, SHAPE)
        for channel in (1, 0):
            for start in (6, 0, 3):
                sums.add(channel, start, image[channel, start : start + 3])
        slabs, whole = sums.extent(), Extent.of(image)
        assert slabs.middle == pytest.approx(whole.middle) and slabs.half == pytest.approx(whole.half)

    @pytest.mark.parametrize("value", [0.0, -2.5, 1e30])
    def test_an_image_without_contrast_is_the_whole_case(self, value: float) -> None:
        extent = Extent.of(np.full((1, *SHAPE), value, np.float32))
        assert extent.middle == pytest.approx([(size - 1) / 2 for size in SHAPE])
        assert extent.half == pytest.approx([size / 2 for size in SHAPE], rel=0.01)

    def test_one_slice_and_one_bright_voxel_have_an_extent_too(self) -> None:
        image = np.zeros((1, 1, 5, 5), np.float32)
        image[0, 0, 3, 1] = 1
        extent = Extent.of(image)
        assert extent.middle == (0, 3, 1) and min(extent.half) > 0

    def test_positions_go_from_minus_one_to_one_over_the_body(self) -> None:
        maps = Extent(middle=(4, 6.5, 18.5), half=(2.5, 3, 7)).position((0, 0, 0), SHAPE)
        assert maps.shape == (POSITION_MAPS, *SHAPE) and maps.dtype == np.float32
        assert (maps[3] == 1).all() and not unknown_position(SHAPE).any()
        assert maps[1, 0, 4, 0] == pytest.approx(-2.5 / 3) and maps[1, 5, 9, 3] == pytest.approx(2.5 / 3)
        for axis in range(3):
            assert (np.diff(maps[axis], axis=axis) > 0).all()
            others = tuple(each for each in range(3) if each != axis)
            assert np.ptp(maps[axis], axis=others).max() == 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data: DataPlan = data_plan(axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0))
    store = Store.create(tmp_path_factory.mktemp("store") / "x", data)
    image = image_from_array(body_image(), (1, 1, 1))
    label = np.zeros(SHAPE, np.uint8)
    label[BODY] = 1
    transform = CaseTransform.fit(image, data)
    store.add("one", transform.slabs(image), label, transform)
    return store


def sampler(store: Store, configuration: str, **model: object) -> PatchSampler:
    planned = model_plan(configuration, PATCHES[configuration], **model)
    return PatchSampler(store, ("one",), planned, batch_size=6, foreground_share=0.5, seed=3, cache_bytes=0)


@pytest.mark.parametrize("configuration", PATCHES)
class TestSampler:
    def test_patches_are_the_same_with_maps_behind_them(self, store: Store, configuration: str) -> None:
        plain, placed = (sampler(store, configuration, position=flag).batch(4) for flag in (False, True))
        assert placed.image.shape[1] == 1 + POSITION_MAPS
        assert torch.equal(placed.image[:, :1], plain.image) and torch.equal(placed.label, plain.label)

    def test_validation_sees_the_position_in_the_case(self, store: Store, configuration: str) -> None:
        image, _ = sampler(store, configuration, position=True).batch(0, "validate")
        whole = store.case("one").extent.position((0, 0, 0), SHAPE)
        for sample in image.numpy():
            for axis in (1, 2):  # the slice axis of a 2.5D stack may lie outside
                line = sample[1 + axis].take(0, axis=0)
                along = line[:, 0] if axis == 1 else line[0]
                everywhere = whole[axis, 0, :, 0] if axis == 1 else whole[axis, 0, 0]
                start = int(np.abs(everywhere - along[0]).argmin())
                assert along == pytest.approx(everywhere[start : start + len(along)])

    def test_training_sees_it_vaguely_and_each_step_the_same(self, store: Store, configuration: str) -> None:
        one, again = (sampler(store, configuration, position=True).batch(2).image for _ in range(2))
        assert torch.equal(one, again)
        other = sampler(store, configuration, position=True).batch(2, "validate").image
        known = one[:, -1].mean((1, 2, 3)) == 1
        slopes = [(image[:, 2, :, 1] - image[:, 2, :, 0]).mean((1, 2)) for image in (one[known], other)]
        assert slopes[0].std() > 0.01 and slopes[1].std() < 1e-5

    def test_some_training_patches_do_not_know_it(self, store: Store, configuration: str) -> None:
        drawn = sampler(store, configuration, position=True)
        images = torch.cat([drawn.batch(step).image for step in range(30)])
        known = images[:, -1].mean((1, 2, 3))
        assert set(known.tolist()) == {0.0, 1.0} and not images[known == 0, 1:].any()
        assert 1 - known.mean() == pytest.approx(POSITION_UNKNOWN, abs=0.1)


def test_a_store_of_an_earlier_release_is_measured_when_it_is_read(store: Store, tmp_path: Path) -> None:
    record = CaseRecord.load(store.case("one").folder / CASE_FILE)
    assert record.extent is not None
    record.model_copy(update={"extent": None}).save(store.case("one").folder / CASE_FILE)
    try:
        found = store.case("one").extent
    finally:
        record.save(store.case("one").folder / CASE_FILE)
    assert found.middle == pytest.approx(record.extent.middle) and found.half == pytest.approx(record.extent.half)


INTENSITIES = ("noise", "blur", "brightness", "contrast", "gamma", "low_resolution")
STILL = {f"{name}_probability": 0.0 for name in (*INTENSITIES, "rotate", "scale")}


def augmented(both: torch.Tensor, **settings: object) -> torch.Tensor:
    chosen = Augmentation(**(STILL | settings))  # type: ignore[arg-type]
    transforms = sample_transforms(
        chosen, batch=len(both), channels=2, generator=lambda name: np.random.default_rng(len(name))
    )
    label = torch.zeros(len(both), 1, *both.shape[3:], dtype=torch.int64)
    return apply(both, label, transforms, spacing=(1, 1, 1), out_of_plane=False, maps=POSITION_MAPS)[0]


def test_augmentation_moves_maps_with_the_image_and_keeps_their_values() -> None:
    image = torch.from_numpy(np.random.default_rng(0).random((4, 2, 1, 16, 16), np.float32))
    maps = torch.from_numpy(np.stack([Extent.of(body_image()).position((0, 0, 0), (1, 16, 16))] * 4))
    both = torch.cat([image, maps], dim=1)
    for name in INTENSITIES:
        changed = augmented(both, **{f"{name}_probability": 1.0}, low_resolution_axes=(1, 2))
        assert torch.equal(changed[:, 2:], maps) and not torch.allclose(changed[:, :2], image), name
    flipped = 0
    for sample, before in zip(augmented(both, mirror_axes=(2,)), both, strict=True):
        turned = not torch.equal(sample, before)
        flipped += turned
        assert torch.equal(sample, before.flip(-1) if turned else before)
    assert flipped


@pytest.mark.parametrize("configuration", PATCHES)
class TestNetwork:
    def network(self, configuration: str) -> torch.nn.Module:
        planned = plan(data_plan(), model_plan(configuration, PATCHES[configuration], position=True))
        network, _ = build_network(planned.model, channels=2, classes=3, seed=0)
        return network.eval()

    def test_it_starts_as_if_there_were_no_maps(self, configuration: str) -> None:
        network = self.network(configuration)
        x = torch.randn(2, 2 + POSITION_MAPS, *PATCHES[configuration])
        other = torch.cat([x[:, :2], torch.randn_like(x[:, 2:])], dim=1)
        with torch.no_grad():
            assert torch.equal(network(x), network(other))

    def test_it_learns_what_position_alone_tells(self, configuration: str) -> None:
        """The same image everywhere, and a label on one side: only the maps can tell."""
        torch.manual_seed(0)
        network = self.network(configuration)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        image = torch.randn(1, 2, *PATCHES[configuration]).expand(8, -1, -1, -1, -1)
        sides = torch.tensor([-1.0, 1.0] * 4)
        maps = torch.ones(8, POSITION_MAPS, *PATCHES[configuration])
        maps[:, 1] = sides.view(8, 1, 1, 1)
        x = torch.cat([image, maps], dim=1)
        target = (sides > 0).long().view(8, 1, 1, 1)
        for _ in range(25):
            logits = network(x)
            loss = torch.nn.functional.cross_entropy(logits, target.expand(8, *logits.shape[2:]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right = (network(x).argmax(1) == target).float().mean()
        assert right > 0.95
        x[:, -1] = 0
        unknown = network(x)
        assert torch.equal(unknown[0], unknown[1])  # whatever the other maps say


@pytest.mark.parametrize("configuration", PATCHES)
def test_prediction_gives_the_network_the_positions_of_training(store: Store, configuration: str) -> None:
    case, model = store.case("one"), model_plan(configuration, PATCHES[configuration], position=True)
    seen: list[torch.Tensor] = []

    def network(windows: torch.Tensor) -> torch.Tensor:
        seen.append(windows)
        middle = windows.shape[2] // 2
        return windows[:, 1:] if configuration == "3d" else windows[:, 1:, middle : middle + 1].clone()

    array = torch.from_numpy(case.image[:])
    volume = torch.empty(POSITION_MAPS, *SHAPE)
    for start, slab in predict_slabs(network, array, model, POSITION_MAPS, axis=0, extent=case.extent):
        volume[:, start : start + slab.shape[1]] = slab
    assert volume.numpy() == pytest.approx(case.extent.position((0, 0, 0), SHAPE), abs=1e-4)
    assert {windows.shape[1] for windows in seen} == {1 + POSITION_MAPS}
    for _, slab in predict_slabs(network, array, model, POSITION_MAPS, axis=0):
        assert not slab.any()  # no extent: nothing is known


class TestKnownExtent:
    """Plans for images of 9 x 20 x 26 voxels of (1, 1, 1) mm, and for some of twice the length along u."""

    def plan(self, *, position: bool = True, **data: object) -> Plan:
        log = [math.log(size) for size in SHAPE]
        size = [Spread(mean=each, std=0.1, lowest=each, highest=each) for each in log]
        size[1] = size[1].model_copy(update={"highest": log[1] + math.log(2)})
        figures = (Spread(mean=0, std=1, lowest=0, highest=0),) * 5
        training = TrainingImages(
            cases=3,
            degrees=3,
            channels=(ChannelSpread(scale=1.0, figures=figures),),
            spacing=tuple(size),
            size=tuple(size),
            orientations=("RAS",),
        )
        planned = plan(
            data_plan(axes=(0, 1, 2), spacing=(1.0, 1.0, 1.0), **data),
            model_plan("3d", (4, 8, 10), position=position),
        )
        return planned.model_copy(update={"training_images": training})

    @pytest.mark.parametrize("shape", [SHAPE, (9, 40, 26), (9, 30, 26), (8, 17, 31)])
    def test_sizes_of_training_are_known(self, shape: tuple[int, int, int]) -> None:
        image = np.random.default_rng(0).random((1, *shape), np.float32)
        assert known_extent(image, self.plan()) == Extent.of(image)

    @pytest.mark.parametrize("shape", [(4, 20, 26), (9, 9, 26), (9, 20, 13), (18, 20, 26), (9, 60, 26)])
    def test_parts_of_a_body_and_more_than_it_are_not(self, shape: tuple[int, int, int]) -> None:
        image = np.random.default_rng(0).random((1, *shape), np.float32)
        assert known_extent(image, self.plan()) is None
        assert known_extent(image, self.plan(crop_nonzero=True)) is not None  # its size is that of the content

    def test_sizes_are_compared_along_the_axes_of_the_file(self) -> None:
        planned = self.plan()
        turned = planned.model_copy(update={"data": planned.data.model_copy(update={"axes": (2, 0, 1)})})
        image = np.random.default_rng(0).random((1, SHAPE[2], SHAPE[0], SHAPE[1]), np.float32)
        assert known_extent(image, turned) is not None and known_extent(image, planned) is None

    def test_2d_images_have_two_sizes(self) -> None:
        planned = self.plan()
        assert planned.training_images is not None
        training = planned.training_images.model_copy(update={"size": planned.training_images.size[:2]})
        flat = planned.data.model_copy(update={"axes": (2, 0, 1), "dimension": 2})
        both = planned.model_copy(update={"training_images": training, "data": flat})
        image = np.random.default_rng(0).random((1, 1, SHAPE[0], SHAPE[1]), np.float32)
        assert known_extent(image, both) is not None
        assert known_extent(image[..., :7], both) is None

    def test_nothing_is_known_without_positions_or_training_images(self) -> None:
        image = np.zeros((1, *SHAPE), np.float32)
        assert known_extent(image, self.plan(position=False)) is None
        assert known_extent(image, self.plan().model_copy(update={"training_images": None})) is None


def test_the_rule() -> None:
    assert position("unet", 3)[0] is True
    assert position("unet", 2)[0] is False
    assert position("svm", 3)[0] is False
    assert position("unet", 3, carried=False)[0] is False and position("unet", 3, carried=True)[0] is True
