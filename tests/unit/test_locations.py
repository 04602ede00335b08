"""Places of labels: all of a small label, a seeded sample of a large one, none where nothing is annotated."""

from __future__ import annotations

import numpy as np

from seg_transfer.preprocessing.locations import LOCATIONS_PER_CLASS, LocationKey, count_classes, sample_locations


def sample(
    label: np.ndarray, *, seed: int = 0, classes: int = 4, unknown: int | None = None
) -> dict[LocationKey, np.ndarray]:
    return sample_locations(label, count_classes(label, classes), seed=seed, not_annotated=unknown)


def test_a_large_label_is_a_sample_that_depends_on_the_seed_alone() -> None:
    label = np.zeros((20, 60, 60), np.uint8)
    label[5:15, 10:50, 10:50] = 1
    label[0, 0, 0] = 2
    first, again, other = (sample(label, seed=seed) for seed in (1, 1, 2))
    assert set(first) == {1, 2}
    assert first[1].shape == (LOCATIONS_PER_CLASS, 3)
    assert len(np.unique(first[1], axis=0)) == LOCATIONS_PER_CLASS
    assert (label[tuple(first[1].T)] == 1).all()
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[1] != other[1]).any()
    np.testing.assert_array_equal(first[2], [[0, 0, 0]])


def test_a_sample_covers_the_whole_label_evenly() -> None:
    label = np.ones((50, 40, 40), np.uint8)
    slices = np.bincount(sample(label)[1][:, 0], minlength=50)
    assert slices.min() > 140 and slices.max() < 260  # 200 expected, standard deviation 13


def test_no_place_of_a_label_of_a_ten_thousandth_is_lost() -> None:
    label = np.zeros((40, 250, 250), np.uint8)
    label[:, 100:200, 100:200] = 1
    scattered = np.random.default_rng(0).choice(label.size, label.size // 10_000, replace=False)
    label.reshape(-1)[scattered] = 2
    np.testing.assert_array_equal(sample(label)[2], np.argwhere(label == 2))


def test_what_is_not_annotated_is_nobodys_place() -> None:
    label = np.full((6, 20, 20), 3, np.uint8)
    label[2], label[2, 4:6, 7] = 0, 1
    found = sample(label, unknown=3)
    assert set(found) == {1, "annotated"}
    assert found[1].tolist() == [[2, 4, 7], [2, 5, 7]]
    np.testing.assert_array_equal(found["annotated"], np.argwhere(label != 3))
    assert sample(np.full((2, 3, 3), 3, np.uint8), unknown=3)["annotated"].shape == (0, 3)
