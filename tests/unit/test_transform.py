"""A case's way to the network's grid and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from made_plans import data_plan
from scipy import ndimage

from seg_transfer.data.description import Region
from seg_transfer.data.geometry import Grid, to_canonical
from seg_transfer.data.image import Image, image_from_array
from seg_transfer.errors import UserError
from seg_transfer.inference.classes import decide
from seg_transfer.inference.label_map import fill_labels
from seg_transfer.planning.data_plan import Channel, Normalization
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.normalize import Scaling
from seg_transfer.preprocessing.resample import SLAB, resample, resample_labels


def blob_labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Two touching ellipsoids, off the centre."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, size * 1j) for size in shape)]
    labels = np.zeros(shape, np.uint8)
    labels[(x + 0.2) ** 2 + (y / 0.8) ** 2 + z**2 < 0.4] = 1
    labels[(x - 0.4) ** 2 + y**2 + (z / 0.8) ** 2 < 0.15] = 2
    return labels


def one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    return (labels == np.arange(count)[:, None, None, None]).astype(np.float32)


def restored(transform: CaseTransform, labels: np.ndarray) -> np.ndarray:
    """The labels of the network's grid, back in the file's own order."""
    native, cropped = transform.blank_labels(labels.dtype)
    cropped[...] = resample_labels(labels, transform.cropped_shape, transform.label_orders)
    return native


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resampling_gives_what_scipy_gives(order: int) -> None:
    volume = np.random.default_rng(0).normal(size=(9, 20, 15)).astype(np.float32)
    shape = (14, 13, 30)
    zoom = [after / before for after, before in zip(shape, volume.shape, strict=True)]
    expected = ndimage.zoom(volume, zoom, order=order, mode="nearest", grid_mode=True)
    expected = expected.clip(volume.min(), volume.max())
    np.testing.assert_allclose(resample(volume, shape, (order,) * 3), expected, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("shape", [(90, 8, 5), (50, 20, 9), (20, 20, 3), (50, 3, 9), (17, 6, 5)])
def test_slabs_fit_together(order: int, shape: tuple[int, int, int]) -> None:
    """More slices than a slab has, axes that grow, shrink and stay, in any order."""
    volume = np.random.default_rng(0).normal(size=(50, 6, 9)).astype(np.float32)
    zoom = [after / before for after, before in zip(shape, volume.shape, strict=True)]
    expected = ndimage.zoom(volume, zoom, order=order, mode="nearest", grid_mode=True)
    assert max(shape) > SLAB
    np.testing.assert_allclose(
        resample(volume, shape, (order,) * 3), expected.clip(volume.min(), volume.max()), atol=1e-5
    )


def test_a_clip_does_not_reach_into_the_source() -> None:
    volume = np.random.default_rng(0).normal(size=(40, 6, 6)).astype(np.float32)
    before = volume.copy()
    resample(volume, (60, 6, 6), (3, 3, 3))
    resample(volume, (40, 9, 6), (3, 3, 3))
    np.testing.assert_array_equal(volume, before)


def test_zscore_of_a_part_of_the_channels_counts_planes_as_one() -> None:
    array = np.random.default_rng(7).normal(100, 20, size=(7, 9, 11)).astype(np.int16)
    array[:, :4] = 0
    whole = Scaling.fit(array, Normalization(kind="zscore"), None)
    assert (whole.shift, whole.scale) == pytest.approx((array.mean(), array.std()))
    inside = Scaling.fit(array, Normalization(kind="zscore", mask=True), array != 0)
    assert (inside.shift, inside.scale) == pytest.approx((array[array != 0].mean(), array[array != 0].std()))


def test_resampling_keeps_the_outer_edges() -> None:
    ramp = np.broadcast_to((np.arange(8, dtype=np.float32) + 0.5)[None, None], (4, 4, 8))  # value = position of centre
    finer = resample(ramp, (4, 4, 16), (1, 1, 1))[0, 0]
    np.testing.assert_allclose(finer[1:-1], (np.arange(16)[1:-1] + 0.5) / 2, atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 30, 26), (40, 11, 9), (9, 20, 20), (2, 3, 4)])
def test_resampling_labels_in_boxes_equals_resampling_every_class_whole(shape: tuple[int, int, int]) -> None:
    labels = blob_labels((9, 20, 15))
    expected = np.stack([resample(score, shape, (1, 1, 1)) for score in one_hot(labels, 3)]).argmax(axis=0)
    found = resample_labels(labels, shape, (1, 1, 1))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_a_label_that_a_coarse_grid_steps_over_vanishes() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[0, 0, 0] = 1
    found = resample_labels(labels, (3, 20, 2), (1, 1, 1))
    assert found.shape == (3, 20, 2)
    assert not found.any()


def test_equal_spacing_is_exact_to_the_bit() -> None:
    array = np.random.default_rng(1).normal(size=(20, 24, 9)).astype(np.float32)
    image = image_from_array(array, (1.0005, 1.0, 3.001))
    plan = data_plan(channels=(Channel(name="T1", normalization=Normalization(kind="none")),))
    transform = CaseTransform.fit(image, plan)
    np.testing.assert_array_equal(transform.image(image)[0], array.transpose(2, 0, 1))
    labels = blob_labels(array.shape)
    there = transform.label(labels)
    np.testing.assert_array_equal(there, labels.transpose(2, 0, 1))
    np.testing.assert_array_equal(restored(transform, there), labels)


def test_shape_and_voxel_size_follow_the_plan() -> None:
    image = image_from_array(np.ones((30, 40, 21), np.float32), (0.5, 0.75, 5.0))
    transform = CaseTransform.fit(image, data_plan(axes=(2, 1, 0)))
    assert transform.shape == (35, 30, 15)
    assert transform.image(image).shape == (1, 35, 30, 15)


def test_the_way_back_restores_the_labels_after_resampling_and_cropping() -> None:
    labels = blob_labels((40, 36, 12))
    array = np.pad(np.random.default_rng(2).uniform(1, 2, labels.shape), ((3, 5), (0, 7), (2, 0))).astype(np.float32)
    labels = np.pad(labels, ((3, 5), (0, 7), (2, 0)))
    image = image_from_array(array, (0.7, 0.7, 3.0))
    transform = CaseTransform.fit(image, data_plan(crop_nonzero=True, spacing=(2.0, 0.5, 0.5), slice_order=1))
    assert transform.crop_start == (3, 0, 2)
    assert transform.crop_stop == (43, 36, 14)
    there = transform.label(labels)
    assert there.shape == transform.shape == transform.image(image).shape[1:]
    back = restored(transform, there)
    assert back.shape == labels.shape
    for index in (1, 2):
        overlap = 2 * ((back == index) & (labels == index)).sum() / ((back == index).sum() + (labels == index).sum())
        assert overlap > 0.95
    outside = back.copy()
    outside[3:43, 0:36, 2:14] = 0
    assert not outside.any()


def test_probabilities_come_back_with_background_outside_the_crop() -> None:
    array = np.zeros((12, 12, 6), np.float32)
    array[2:10, 3:11, 1:5] = 1
    image = image_from_array(array, (1.0, 1.0, 3.0))
    transform = CaseTransform.fit(image, data_plan(crop_nonzero=True, spacing=(3.0, 0.5, 0.5)))
    probabilities = np.full((3, *transform.shape), 0.25, np.float32)
    probabilities[2] = 0.5
    native = transform.restore_probabilities(probabilities, data_plan())
    assert native.shape == (3, 12, 12, 6)
    np.testing.assert_allclose(native[:, 5, 5, 2], [0.25, 0.25, 0.5], atol=1e-6)
    np.testing.assert_array_equal(native[:, 0, 0, 0], [1, 0, 0])


def test_regions_are_decided_on_the_grid_of_the_file() -> None:
    """Of probabilities that rise from 0 to 1 between two voxels, the region begins half way, at any resolution."""
    regions = (Region(name="both", values=(1, 2), writes=1), Region(name="b", values=(2,), writes=2))
    data = data_plan(crop_nonzero=True, spacing=(3.0, 2.0, 1.0), regions=regions)
    array = np.zeros((18, 12, 6), np.float32)
    array[2:, :, :] = 1
    transform = CaseTransform.fit(image_from_array(array, (1.0, 1.0, 3.0)), data)
    assert transform.shape == (6, 8, 12)
    probabilities = np.zeros((2, *transform.shape), np.float32)
    probabilities[0] = np.clip(np.arange(8) - 2.5, 0, 1)[:, None]  # 0.5 in the middle of voxel 3, 1 in that of voxel 4
    probabilities[1, :, 6:] = 1
    labels, cropped = transform.blank_labels(np.uint8)
    slabs = [(0, torch.from_numpy(probabilities))]
    fill_labels(cropped, slabs, transform.shape, transform.label_orders, lambda each: decide(each, data), axis=0)
    # voxel 3 lies over 6 and 7 of the crop (8 and 9 of the file); its centre is where they meet
    assert labels[:, 0, 0].tolist() == [0] * 9 + [1] * 5 + [2] * 4
    assert (labels == labels[:, :1, :1]).all()
    native = transform.restore_probabilities(probabilities, data)
    assert native.shape == (2, 18, 12, 6)
    assert not native[:, :2].any()


def test_a_voxel_is_annotated_where_that_wins() -> None:
    labels = np.full((6, 6, 8), 3, np.uint8)  # 3: not annotated
    labels[..., 2:4], labels[1:5, 1:5, 2:4] = 0, 1
    image = image_from_array(np.ones(labels.shape, np.float32), (1.0, 1.0, 3.0))
    there = CaseTransform.fit(image, data_plan(spacing=(1.5, 1.0, 1.0), ignore=9)).label(labels)
    assert there.shape == (16, 6, 6)
    assert there[:, 3, 3].tolist() == [3] * 4 + [1] * 4 + [3] * 8
    assert there[:, 0, 0].tolist() == [3] * 4 + [0] * 4 + [3] * 8


def test_a_transform_survives_json() -> None:
    image = image_from_array(np.random.default_rng(3).normal(size=(10, 11, 5)), (0.1, 1 / 3, 2.2))
    transform = CaseTransform.fit(image, data_plan(crop_nonzero=True))
    again = CaseTransform.model_validate_json(transform.model_dump_json())
    assert again == transform
    np.testing.assert_array_equal(again.image(image), transform.image(image))


def test_labels_return_in_the_orientation_of_the_file() -> None:
    for permutation, signs in itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)):
        linear = np.zeros((4, 4))
        for axis, (world, sign) in enumerate(zip(permutation, signs, strict=True)):
            linear[world, axis] = sign * (1.0, 1.5, 3.0)[world]
        linear[3, 3] = 1
        native = Grid((7, 9, 11), linear)
        stored = np.random.default_rng(4).integers(0, 3, native.shape).astype(np.uint8)
        canonical = to_canonical(stored, native)
        image = Image(np.ones((1, *canonical.shape), np.float32), native.canonical().affine, native)
        transform = CaseTransform.fit(image, data_plan(spacing=(3.0, 1.0, 1.5)))
        np.testing.assert_array_equal(restored(transform, transform.label(canonical)), stored)


def normalized(array: np.ndarray, *, crop: bool = False, **rule: object) -> np.ndarray:
    channel = Channel(name="c", normalization=Normalization(**rule))
    image = image_from_array(array, (1.0, 1.0, 3.0))
    return CaseTransform.fit(image, data_plan(channels=(channel,), crop_nonzero=crop)).image(image)[0]


def test_zscore_uses_the_statistics_of_the_crop() -> None:
    array = np.zeros((10, 10, 10), np.float32)
    array[2:8, 2:8, 2:8] = np.random.default_rng(5).uniform(1, 9, (6, 6, 6))
    result = normalized(array, crop=True, kind="zscore")
    assert result.shape == (6, 6, 6)
    assert result.mean() == pytest.approx(0, abs=1e-5)
    assert result.std() == pytest.approx(1, abs=1e-5)


def test_zscore_in_the_mask_leaves_zeros_zero() -> None:
    array = np.zeros((8, 8, 8), np.float32)
    array[:, :, :4] = np.random.default_rng(6).uniform(1, 9, (8, 8, 4))
    result = normalized(array, kind="zscore", mask=True)
    assert not result[4:].any()
    assert result[:4].mean() == pytest.approx(0, abs=1e-5)
    assert result[:4].std() == pytest.approx(1, abs=1e-5)


def test_fixed_scales() -> None:
    array = np.linspace(-100, 300, 512, dtype=np.float32).reshape(8, 8, 8)
    clipped = normalized(array, kind="clip_zscore", lower=0, upper=200, mean=50, std=25)
    assert (clipped.min(), clipped.max()) == (-2, 6)
    unit = normalized(array, kind="minmax", lower=0, upper=255)
    assert (unit.min(), unit.max()) == (0, 1)
    np.testing.assert_array_equal(normalized(array, kind="none"), array.transpose(2, 0, 1))


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e6])
@pytest.mark.parametrize("mask", [False, True])
def test_a_constant_image_becomes_zero(value: float, mask: bool) -> None:
    result = normalized(np.full((6, 6, 6), value, np.float32), kind="zscore", mask=mask, crop=True)
    np.testing.assert_allclose(result, 0, atol=1e-1 if value > 1e5 else 1e-6)


def test_an_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 channel\(s\), the plan has 1 \(T1\)"):
        CaseTransform.fit(image_from_array(np.ones((2, 4, 4, 4)), (1, 1, 1)), data_plan())
    with pytest.raises(UserError, match="not finite"):
        CaseTransform.fit(image_from_array(np.full((4, 4, 4), np.nan), (1, 1, 1)), data_plan())


@pytest.mark.parametrize(
    ("plan", "shape", "unit"),
    [
        ({"dimension": 2, "unit": "pixel", "axes": (2, 1, 0)}, (8, 8, 5), "pixel"),
        ({"dimension": 2, "unit": "pixel", "axes": (2, 1, 0)}, (8, 8, 1), "mm"),
        ({"dimension": 3, "unit": "mm"}, (8, 8, 1), "pixel"),
    ],
)
def test_2d_images_and_volumes_are_not_mixed(plan: dict, shape: tuple[int, int, int], unit: str) -> None:
    image = image_from_array(np.ones(shape, np.float32), (1, 1, 1), unit=unit)
    with pytest.raises(UserError, match=f"spacing in {unit}, but the plan was made for"):
        CaseTransform.fit(image, data_plan(**plan))
