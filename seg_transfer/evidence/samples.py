"""Sampled voxels of one case with their labels, for classifiers of single voxels.

Most errors of a segmentation are at boundaries, where few voxels are: half of the sample is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PER_LABEL = 300
"""Further voxels of the same case and label are similar, and add little."""
NEAR = 2
"""A voxel is near a boundary if one of another class is within so many voxels in-plane. Neighbouring slices are not
looked at, since they may be several times as far apart as the voxels of a slice."""


@dataclass(frozen=True)
class Samples:
    """Voxels of one case.

    Attributes:
        positions: ``(n, 3)`` int64 in ``(slice, u, v)``.
        classes: Class index of each, ``(n,)`` int64; 0 is background.
        weights: Number of voxels of the case (or of the sampled slices) that each represents, ``(n,)`` float64: the
            voxels of its class on its side (near a boundary or not), divided by those in the sample.
    """

    positions: NDArray[np.int64]
    classes: NDArray[np.int64]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.classes)


def sample_voxels(
    label: NDArray[np.unsignedinteger],
    *,
    not_annotated: int | None = None,
    per_label: int = PER_LABEL,
    seed: int,
    slices_per_label: int | None = None,
) -> Samples:
    """Sample voxels of each class that occurs, background included, half of them near a boundary between classes.

    If there are too few voxels for one half, the other half is larger. Voxels that are not annotated are never sampled,
    and are no boundary.

    Args:
        label: Class indices ``(slice, u, v)``.
        not_annotated: Class index of voxels without annotation; None if there are none.
        per_label: At most so many voxels of each class.
        seed: Random seed.
        slices_per_label: Number of slices with each class to sample from, since voxels that are far apart need more
            windows of an encoder. None: all slices.
    """
    generator = np.random.default_rng(seed)
    if slices_per_label is not None:
        kept = _some_slices(label, not_annotated, slices_per_label, generator)
        found = sample_voxels(label[kept], not_annotated=not_annotated, per_label=per_label, seed=seed)
        positions = np.column_stack([kept[found.positions[:, 0]], found.positions[:, 1:]])
        return Samples(positions, found.classes, found.weights)
    near = near_boundary(label, not_annotated)
    places, classes, weights = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for index in np.unique(label):
        if index == not_annotated:
            continue
        members = np.flatnonzero(label == index)
        at_boundary = near.reshape(-1)[members]
        sides = [members[at_boundary], members[~at_boundary]]
        for side, count in zip(sides, _shares(len(sides[0]), len(sides[1]), per_label), strict=True):
            places.append(np.sort(generator.choice(side, count, replace=False)))
            classes.append(np.full(count, index, np.int64))
            weights.append(np.full(count, len(side) / max(count, 1)))
    positions = np.stack(np.unravel_index(np.concatenate(places), label.shape), axis=1)
    return Samples(positions, np.concatenate(classes), np.concatenate(weights))


def _some_slices(
    label: NDArray[np.unsignedinteger], not_annotated: int | None, per_label: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Sorted indices of randomly chosen slices, so many with each class."""
    kept: set[int] = set()
    for index in np.unique(label):
        if index != not_annotated:
            held = np.flatnonzero((label == index).any(axis=(1, 2)))
            kept |= set(generator.choice(held, min(per_label, len(held)), replace=False).tolist())
    return np.array(sorted(kept), np.int64)


def near_boundary(label: NDArray[np.unsignedinteger], not_annotated: int | None = None) -> NDArray[np.bool_]:
    """Mask of voxels with one of another class within ``NEAR`` voxels along u and v, in the same slice.

    Args:
        label: Class indices ``(slice, u, v)``.
        not_annotated: Class index of voxels without annotation, which make no boundary.
    """
    highest = lowest = label.astype(np.int32)
    if not_annotated is not None:
        unknown = label == not_annotated
        highest, lowest = np.where(unknown, -1, highest), np.where(unknown, not_annotated, lowest)
    size = (1, 2 * NEAR + 1, 2 * NEAR + 1)
    around = ndimage.maximum_filter(highest, size), ndimage.minimum_filter(lowest, size)
    return around[0] > around[1]


def _shares(near: int, far: int, wanted: int) -> tuple[int, int]:
    """Number of voxels from each side: half from each if there are enough, the rest from the other."""
    first = min(near, max(wanted // 2, wanted - far))
    return first, min(far, wanted - first)
