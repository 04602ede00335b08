"""Scores on the network's grid -> labels on the file's: slab by slab as if all of it were in memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from made_plans import data_plan

from seg_transfer.inference.classes import decide
from seg_transfer.inference.label_map import fill_labels
from seg_transfer.preprocessing.resample import neighbours, resample

SHAPE = (9, 12, 10)


def random_probabilities(outputs: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(outputs), SHAPE).transpose(3, 0, 1, 2).astype(np.float32)


def classes_of(probabilities: np.ndarray) -> np.ndarray:
    return decide(probabilities, data_plan())


@pytest.mark.parametrize("after", [(9, 12, 10), (14, 30, 26), (20, 7, 9), (4, 12, 25), (1, 3, 10)])
@pytest.mark.parametrize("orders", [(1, 1, 1), (0, 1, 1)])
def test_slab_by_slab_equals_resampling_all_probabilities_whole(after: tuple[int, int, int], orders) -> None:
    probabilities = random_probabilities(3)
    expected = np.stack([resample(each, after, orders) for each in probabilities]).argmax(axis=0)
    for axis, thickness in itertools.product(range(3), (1, 4, 12)):
        slabs = (
            (start, torch.from_numpy(probabilities).narrow(axis + 1, start, min(thickness, SHAPE[axis] - start)))
            for start in range(0, SHAPE[axis], thickness)
        )
        labels = np.full(after, 77, np.uint8)
        fill_labels(labels, slabs, SHAPE, orders, classes_of, axis=axis)
        np.testing.assert_array_equal(labels, expected)


def test_memory_of_a_slab_may_be_used_again_for_the_next() -> None:
    probabilities = torch.from_numpy(random_probabilities(3))
    expected, found = np.zeros((20, *SHAPE[1:]), np.uint8), np.zeros((20, *SHAPE[1:]), np.uint8)
    fill_labels(expected, [(0, probabilities)], SHAPE, (1, 1, 1), classes_of, axis=0)
    buffer = torch.empty_like(probabilities[:, :3])

    def slabs():  # type: ignore[no-untyped-def]
        for start in range(0, 9, 3):
            yield start, buffer.copy_(probabilities[:, start : start + 3])

    fill_labels(found, slabs(), SHAPE, (1, 1, 1), classes_of, axis=0)
    np.testing.assert_array_equal(found, expected)


def test_neighbours() -> None:
    lower, upper, share = neighbours(2, 4, 1)
    assert (lower.tolist(), upper.tolist()) == ([0, 0, 0, 1], [0, 1, 1, 1])
    np.testing.assert_allclose(share, [0, 0.25, 0.75, 0])
    lower, upper, share = neighbours(2, 4, 0)
    assert (lower.tolist(), upper.tolist(), share.tolist()) == ([0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0])


def test_the_highest_probability_wins_and_the_first_of_equal_ones() -> None:
    probabilities = np.array([[0.5, 0.2, 0.3, 0.4], [0.5, 0.5, 0.3, 0.2], [0.0, 0.3, 0.4, 0.4]], np.float32)
    found = classes_of(probabilities)
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 1, 2, 0]
