"""Which voxels are sampled: how many of each label, how many near boundaries, and never those without annotation."""

from __future__ import annotations

import numpy as np
import pytest

from seg_transfer.evidence.features import _most_central, window_cells
from seg_transfer.evidence.samples import NEAR, near_boundary, sample_in_parts, sample_voxels
from seg_transfer.preprocessing.resample import Box


@pytest.fixture
def label() -> np.ndarray:
    """Background, a large block of class 1 and a line of class 2, three slices of 60 x 60."""
    made = np.zeros((3, 60, 60), np.uint8)
    made[:, 10:50, 10:50] = 1
    made[:, 5, 5:15] = 2
    return made


def test_half_lies_near_boundaries_and_no_label_is_above_the_cap(label: np.ndarray) -> None:
    found = sample_voxels(label, per_label=100, seed=0)
    near = near_boundary(label)[tuple(found.positions.T)]
    assert (label[tuple(found.positions.T)] == found.classes).all()
    assert len(np.unique(found.positions, axis=0)) == len(found)
    for index, count in ((0, 100), (1, 100), (2, 30)):
        mine = found.classes == index
        assert mine.sum() == count
        assert near[mine].sum() == (30 if index == 2 else 50)  # the line has no inside


def test_weights_add_up_to_the_voxels_of_each_label(label: np.ndarray) -> None:
    found = sample_voxels(label, per_label=100, seed=0)
    for index in range(3):
        assert found.weights[found.classes == index].sum() == pytest.approx((label == index).sum())
    near = near_boundary(label)
    at_boundary = near[tuple(found.positions.T)]
    inside = (found.classes == 1) & ~at_boundary
    assert found.weights[inside].sum() == pytest.approx(((label == 1) & ~near).sum())


def test_what_counts_as_near() -> None:
    line = np.zeros((2, 1, 20), np.uint8)
    line[0, 0, 10:] = 1
    expected = np.zeros((2, 1, 20), bool)
    expected[0, 0, 10 - NEAR : 10 + NEAR] = True  # and nothing in the other slice
    assert (near_boundary(line) == expected).all()


def test_voxels_without_annotation_are_never_drawn_and_make_no_boundary(label: np.ndarray) -> None:
    label[:, 40:] = 3
    found = sample_voxels(label, not_annotated=3, per_label=200, seed=0)
    assert set(found.classes) == {0, 1, 2}
    near = near_boundary(label, 3)
    assert not near[:, 45:].any()
    assert not near[0, 39, 20:40].any()  # class 1 beside what is not annotated
    assert near[0, 20, 10]  # class 1 beside background
    assert len(sample_voxels(np.full((1, 4, 4), 3, np.uint8), not_annotated=3, seed=0)) == 0


def test_the_seed_decides(label: np.ndarray) -> None:
    one, same, other = (sample_voxels(label, per_label=50, seed=seed).positions for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def slices_of(label: np.ndarray) -> list[Box]:
    return [(slice(k, k + 1), slice(None), slice(None)) for k in range(len(label))]


def test_only_so_many_slices_with_each_class_are_drawn_from() -> None:
    label = np.zeros((30, 20, 20), np.uint8)
    label[5:15, 4:12, 4:12] = 1
    label[20, 3, 3] = 2
    label[25:] = 9
    found = sample_in_parts(label, slices_of(label), 2, not_annotated=9, per_label=100, seed=0)
    slices = [set(found.positions[found.classes == index][:, 0].tolist()) for index in range(3)]
    assert slices[2] == {20} and slices[0] | slices[1] | slices[2] < set(range(25))
    assert len(slices[0] | slices[1]) == 3  # the point's, which holds background too, and two of the square
    assert (label[tuple(found.positions.T)] == found.classes).all()
    assert [(found.classes == index).sum() for index in range(3)] == [100, 100, 1]
    every = sample_in_parts(label, slices_of(label), 30, not_annotated=9, per_label=100, seed=0)
    assert len(np.unique(every.positions[:, 0])) > len(slices[0] | slices[1])
    empty = np.full((3, 8, 8), 9, np.uint8)
    assert len(sample_in_parts(empty, slices_of(empty), 2, not_annotated=9, seed=0)) == 0


@pytest.mark.parametrize(
    ("shape", "window"), [((20, 50, 31), (8, 16, 16)), ((5, 40, 40), (16, 64, 24)), ((7, 9, 9), (1, 9, 9))]
)
def test_voxels_of_a_cell_are_read_in_one_window(shape: tuple[int, int, int], window: tuple[int, int, int]) -> None:
    cells = window_cells(shape, window)
    covered = np.zeros(shape, int)
    for cell in cells:
        covered[cell] += 1
        positions = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in cell), indexing="ij"), -1)
        corners, _ = _most_central(shape, window, positions.reshape(-1, 3))
        assert len(corners) == 1
    assert (covered == 1).all()


def test_few_windows_hold_the_sample_of_a_volume() -> None:
    label = np.zeros((40, 64, 64), np.uint8)
    label[4:30, 8:40, 8:40] = 1
    label[20:24, 50:54, 50:54] = 2
    cells = window_cells(label.shape, (16, 32, 32))
    found = sample_in_parts(label, cells, 2, per_label=60, seed=0)
    corners, _ = _most_central(label.shape, (16, 32, 32), found.positions)
    assert len(corners) <= 4 < len(cells)
    assert [(found.classes == index).sum() for index in range(3)] == [60, 60, 60]
    assert (label[tuple(found.positions.T)] == found.classes).all()
    represented = [found.weights[found.classes == index].sum() for index in range(3)]
    assert 64 / 2 <= represented[2] <= 64 * 2 and represented[1] <= (label == 1).sum() * 2
