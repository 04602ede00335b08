"""Sampled voxels of one case with their labels, for classifiers of single voxels.

Most errors of a segmentation are at boundaries, where few voxels are: half of the sample is taken from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg_transfer.data.geometry import Box

PER_LABEL = 300
"""More voxels of the same case and label are similar and add little."""
NEAR = 2
"""Largest in-plane distance in voxels between a voxel near a boundary and one of another class. Neighbouring slices do
not count, since they may be several times as far apart as the voxels of a slice."""


@dataclass(frozen=True)
class Samples:
    """Voxels of one case.

    Attributes:
        positions: ``(n, 3)`` in ``(slice, u, v)``.
        classes: Class index of each voxel, ``(n,)``; 0 is background.
        weights: Number of voxels of the case (or of the sampled slices) that each one represents, ``(n,)``: the voxels
            of its class that are near a boundary, or those that are not, divided by the number in the sample.
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
) -> Samples:
    """Sample voxels of each class that occurs, background included, half of them near a boundary between classes.

    If there are too few voxels for one half, the other half is larger. Voxels without annotation are never sampled and
    form no boundary.

    Args:
        label: Class indices ``(slice, u, v)``.
        not_annotated: Class index of voxels without annotation; None if there are none.
        per_label: Largest number of voxels of each class.
        seed: Random seed.
    """
    generator = np.random.default_rng(seed)
    near = near_boundary(label, not_annotated)
    indices, classes, weights = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for index in np.unique(label):
        if index == not_annotated:
            continue
        members = np.flatnonzero(label == index)
        at_boundary = near.reshape(-1)[members]
        sides = [members[at_boundary], members[~at_boundary]]
        for side, count in zip(sides, _shares(len(sides[0]), len(sides[1]), per_label), strict=True):
            indices.append(np.sort(generator.choice(side, count, replace=False)))
            classes.append(np.full(count, index, np.int64))
            weights.append(np.full(count, len(side) / max(count, 1)))
    positions = np.stack(np.unravel_index(np.concatenate(indices), label.shape), axis=1)
    return Samples(positions, np.concatenate(classes), np.concatenate(weights))


def sample_in_parts(
    label: NDArray[np.unsignedinteger],
    parts: Sequence[Box],
    parts_per_label: int,
    *,
    not_annotated: int | None = None,
    per_label: int = PER_LABEL,
    seed: int,
) -> Samples:
    """Sample voxels as :func:`sample_voxels` does, but from few parts, so that an encoder reads few windows.

    Args:
        label: Class indices ``(slice, u, v)``.
        parts: Boxes of the case that do not overlap.
        parts_per_label: Number of parts of each class to sample from; of more if other classes need these.
        not_annotated: Class index of voxels without annotation; None if there are none.
        per_label: Largest number of voxels of each class.
        seed: Random seed.
    """
    generator = np.random.default_rng(seed)
    chosen = _choose_parts(label, parts, not_annotated, parts_per_label, generator)
    found = []
    for index in chosen:
        of_part = sample_voxels(label[parts[index]], not_annotated=not_annotated, per_label=per_label, seed=seed)
        start = [part.start or 0 for part in parts[index]]
        found.append(Samples(of_part.positions + np.array(start), of_part.classes, of_part.weights))
    if not found:
        return Samples(np.empty((0, 3), np.int64), np.empty(0, np.int64), np.empty(0))
    classes = np.concatenate([each.classes for each in found])
    weights = np.concatenate([each.weights for each in found])
    kept: list[NDArray[np.int64]] = []
    for index in np.unique(classes):
        members = np.flatnonzero(classes == index)
        count = min(per_label, len(members))
        kept.append(np.sort(generator.choice(members, count, replace=False)))
        weights[members] *= len(members) / count
    order = np.concatenate(kept)
    return Samples(np.concatenate([each.positions for each in found])[order], classes[order], weights[order])


def _choose_parts(
    label: NDArray[np.unsignedinteger],
    parts: Sequence[Box],
    not_annotated: int | None,
    per_label: int,
    generator: np.random.Generator,
) -> list[int]:
    """Sorted indices of parts, ``per_label`` of each class or all that it is in.

    Few parts hold them: the next one is always a random one of those with the most classes that are still needed.
    """
    classes = int(label.max(initial=0)) + 1
    held = np.stack([np.bincount(label[part].reshape(-1), minlength=classes) > 0 for part in parts])
    if not_annotated is not None:
        held[:, not_annotated:] = False
    needed = np.minimum(held.sum(axis=0), per_label)
    chosen: list[int] = []
    while needed.any():
        gains = (held & (needed > 0)).sum(axis=1)
        best = int(generator.choice(np.flatnonzero(gains == gains.max())))
        chosen.append(best)
        needed -= held[best] & (needed > 0)
        held[best] = False
    return sorted(chosen)


def near_boundary(label: NDArray[np.unsignedinteger], not_annotated: int | None = None) -> NDArray[np.bool_]:
    """Mask of voxels that have one of another class within ``NEAR`` voxels along u and v, in the same slice.

    Args:
        label: Class indices ``(slice, u, v)``.
        not_annotated: Class index of voxels without annotation, which form no boundary.
    """
    highest = lowest = label.astype(np.int32)
    if not_annotated is not None:
        unknown = label == not_annotated
        highest, lowest = np.where(unknown, -1, highest), np.where(unknown, not_annotated, lowest)
    size = (1, 2 * NEAR + 1, 2 * NEAR + 1)
    return ndimage.maximum_filter(highest, size) > ndimage.minimum_filter(lowest, size)


def _shares(near: int, far: int, total: int) -> tuple[int, int]:
    """Number of voxels from each side: half from each if there are enough, otherwise more from the other."""
    first = min(near, max(total // 2, total - far))
    return first, min(far, total - first)
