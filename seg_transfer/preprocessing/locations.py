"""Locations of labels in a stored case, for patches to be centred on."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LOCATIONS_PER_CLASS = 10_000
"""Classes with more voxels are sampled; this is 0.01 % of a volume of 10^8 voxels."""
LocationKey = int | Literal["annotated"]
"""A class index, or any annotated class including background."""


def count_classes(label: NDArray[np.unsignedinteger], classes: int) -> NDArray[np.int64]:
    """Voxels of each class in each slice, ``(slice, class)``; by slice, since counting takes 8 bytes per voxel."""
    return np.stack([np.bincount(plane.reshape(-1), minlength=classes) for plane in label])


def sample_locations(
    label: NDArray[np.unsignedinteger], counts: NDArray[np.int64], *, seed: int, not_annotated: int | None = None
) -> dict[LocationKey, NDArray[np.int32]]:
    """Sample voxels of each foreground class: all, or 10,000 of a larger class.

    Args:
        label: Class indices ``(slice, u, v)``.
        counts: Result of :func:`count_classes`.
        seed: Random seed of the sample.
        not_annotated: Class index of voxels that are not annotated; None if the plan has no ignore label.

    Returns:
        Class index -> ``(n, 3)`` in ``(slice, u, v)``, in memory order; classes that do not occur are absent. With an
        ignore label also ``"annotated"``: voxels of any class, background included.
    """
    generator = np.random.default_rng(seed)
    classes = [index for index in range(counts.shape[1]) if index != not_annotated]
    locations: dict[LocationKey, NDArray[np.int32]] = {
        index: _sample(label, counts, [index], generator) for index in classes[1:] if counts[:, index].any()
    }
    if not_annotated is not None:
        locations["annotated"] = _sample(label, counts, classes, generator)
    return locations


def _sample(
    label: NDArray[np.unsignedinteger], counts: NDArray[np.int64], classes: list[int], generator: np.random.Generator
) -> NDArray[np.int32]:
    """At most 10,000 voxels of these classes together; one slice is in memory at a time."""
    selected = np.zeros(counts.shape[1], bool)
    selected[classes] = True
    ends = np.cumsum(counts[:, selected].sum(axis=1))
    total = int(ends[-1])
    if total > LOCATIONS_PER_CLASS:
        chosen = np.sort(generator.choice(total, LOCATIONS_PER_CLASS, replace=False))
    else:
        chosen = np.arange(total)
    locations = np.empty((len(chosen), 3), np.int32)
    bounds = np.searchsorted(chosen, [0, *ends])
    for index, (first, last) in enumerate(itertools.pairwise(bounds)):
        if first < last:
            before = ends[index - 1] if index else 0
            u, v = np.nonzero(selected[label[index]])
            rank = chosen[first:last] - before
            locations[first:last] = np.stack([np.full(len(rank), index), u[rank], v[rank]], axis=1)
    return locations
