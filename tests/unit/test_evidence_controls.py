"""The controls' features, and overlaps of segmentations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_plans import data_plan, model_plan, plan
from scipy import ndimage

from seg_transfer.data.description import Region
from seg_transfer.evidence.baselines import SCALES, ImageFeatures
from seg_transfer.evidence.overlap import Overlaps
from seg_transfer.network.linear_head import LinearHead
from seg_transfer.planning.data_plan import Channel, Normalization


def made_plan(configuration: str, channels: int = 1):
    kinds = tuple(Channel(name=f"c{index}", normalization=Normalization(kind="zscore")) for index in range(channels))
    data = data_plan(channels=kinds, spacing=(4.0, 1.0, 1.0))
    patch = {"2d": (1, 16, 16), "3d": (4, 16, 16)}[configuration]
    return plan(data, model_plan(configuration, patch))


def image_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_raw_features_are_the_intensities() -> None:
    image = image_of(2, 3, 8, 8)
    (found,) = ImageFeatures("raw", made_plan("2d", 2)).at(image, np.array([[0, 1, 2], [2, 7, 7]]))
    assert np.array_equal(found, [image[:, 0, 1, 2], image[:, 2, 7, 7]])


def test_filters_are_those_they_are_said_to_be() -> None:
    image = image_of(2, 6, 20, 20)
    maps = ImageFeatures("filters", made_plan("3d", 2)).maps(image)
    assert len(maps) == 2 * (1 + 4 * len(SCALES))
    second = maps[len(maps) // 2 :]
    assert np.array_equal(second[0], image[1])
    sigma = (0.5, 2.0, 2.0)  # slices are four times as far apart
    expected = ndimage.gaussian_filter(image[1].astype(np.float64), sigma)
    assert np.allclose(second[5], expected, atol=1e-5)
    assert np.allclose(second[6], ndimage.gaussian_gradient_magnitude(image[1], sigma), atol=1e-5)
    assert np.allclose(second[7], ndimage.gaussian_laplace(image[1], sigma), atol=1e-5)
    spread = ndimage.gaussian_filter(image[1].astype(np.float64) ** 2, sigma) - expected**2
    assert np.allclose(second[8], np.sqrt(spread), atol=1e-3)


def test_in_2d_filters_keep_to_the_slice() -> None:
    image = np.zeros((1, 3, 9, 9), np.float32)
    image[0, 1] = image_of(9, 9)
    maps = ImageFeatures("filters", made_plan("2d")).maps(image)
    assert not maps[:, [0, 2]].any() and maps[:, 1].any(axis=(1, 2)).all()


def test_a_heads_logits_are_those_of_each_voxels_own_features() -> None:
    image, features = image_of(1, 3, 8, 8), ImageFeatures("filters", made_plan("2d"))
    weight = np.random.default_rng(1).normal(size=(2, features.widths[0])).astype(np.float32)
    ((box, logits),) = features.slabs(image, [LinearHead({0: torch.from_numpy(weight)}, torch.tensor([0.0, 1.0]))])
    assert box == (slice(None),) * 3 and logits.shape == (1, 2, 3, 8, 8)
    (found,) = features.at(image, np.array([[1, 2, 3]]))
    assert np.allclose(logits[0, :, 1, 2, 3], found[0] @ weight.T + [0, 1], atol=1e-4)


def test_dice_is_the_mean_over_cases_that_have_a_label() -> None:
    overlaps = Overlaps(data_plan(), 2)
    truth = np.array([[[0, 1, 1, 1]]])
    overlaps.begin_case()
    overlaps.add(0, np.array([[[1, 1]]]), truth[..., :2])  # a case comes in parts
    overlaps.add(0, np.array([[[1, 0]]]), truth[..., 2:])
    overlaps.add(1, truth, truth)
    overlaps.begin_case()
    overlaps.add(0, np.array([[[0, 2]]]), np.array([[[0, 0]]]))
    overlaps.add(1, np.array([[[0, 0]]]), np.array([[[0, 0]]]))
    assert overlaps.mean_dice(0) == {"a": pytest.approx(2 / 3), "b": 0.0}
    assert overlaps.mean_dice(1) == {"a": 1.0, "b": pytest.approx(math.nan, nan_ok=True)}


def test_regions_are_their_labels_together_and_what_is_not_annotated_does_not_count() -> None:
    data = data_plan(
        regions=(Region(name="both", values=(1, 2), writes=1), Region(name="b", values=(2,), writes=2)), ignore=9
    )
    overlaps = Overlaps(data, 1)
    overlaps.begin_case()
    overlaps.add(0, np.array([[[1, 2, 2, 1, 0]]]), np.array([[[2, 1, 2, 3, 3]]]))
    assert overlaps.mean_dice(0) == {"both": 1.0, "b": 0.5}
