"""Locations of labels in a stored case, for patches to be centred on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LOCATIONS_PER_CLASS = 10_000
"""Classes with more voxels are sampled; this is 0.01 % of a volume of 10^8 voxels."""
LocationKey = int | Literal["annotated"]
"""A class index, or any annotated class including background."""


def count_classes(label: NDArray[np.unsignedinteger], classes: int) -> NDArray[np.int64]:
    """Voxels of each class in each slice, ``(slice, class)``; by slice, since counting takes 8 bytes per voxel."""
    counts = np.stack([np.bincount(plane[plane != 0], minlength=classes) for plane in label])  # few, mostly
    counts[:, 0] = math.prod(label.shape[1:]) - counts.sum(axis=1)
    return counts


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
    wanted: dict[LocationKey, _Wanted] = {
        index: _Wanted.draw(counts[:, index], generator) for index in classes[1:] if counts[:, index].any()
    }
    if not_annotated is not None:
        wanted["annotated"] = _Wanted.draw(counts[:, classes].sum(axis=1), generator)
    nothing = np.empty((0, 3), np.int32)
    for number, plane in enumerate(label):
        flat = np.flatnonzero(plane != 0)  # of truth values: five times as fast
        kinds = plane.reshape(-1)[flat]
        for key, one in wanted.items():
            ranks = one.ranks_in(number)
            if not ranks.size:
                continue
            members = np.flatnonzero(plane != not_annotated) if key == "annotated" else flat[kinds == key]
            one.found.append(_at(number, members[ranks], plane.shape[1]))
    return {key: np.concatenate([nothing, *one.found]) for key, one in wanted.items()}


@dataclass(frozen=True)
class _Wanted:
    """A sample of voxels: their ranks among all of the kind, in memory order, and what was found of them.

    Attributes:
        ranks: Ascending.
        ends: Rank after the last one in each slice.
        found: ``(n, 3)`` of each slice.
    """

    ranks: NDArray[np.int64]
    ends: NDArray[np.int64]
    found: list[NDArray[np.int32]]

    @classmethod
    def draw(cls, per_slice: NDArray[np.int64], generator: np.random.Generator) -> _Wanted:
        """Draw at most 10,000 voxels."""
        ends = np.cumsum(per_slice)
        total = int(ends[-1])
        if total > LOCATIONS_PER_CLASS:
            return cls(np.sort(generator.choice(total, LOCATIONS_PER_CLASS, replace=False)), ends, [])
        return cls(np.arange(total), ends, [])

    def ranks_in(self, slice_: int) -> NDArray[np.int64]:
        """The ranks of the voxels in a slice, among those of the slice."""
        before = self.ends[slice_ - 1] if slice_ else 0
        first, last = np.searchsorted(self.ranks, [before, self.ends[slice_]])
        return self.ranks[first:last] - before


def _at(slice_: int, voxels: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """``(slice, u, v)`` of voxels of a slice, whose rows are so wide."""
    u, v = np.divmod(voxels, width)
    return np.stack([np.full(len(voxels), slice_), u, v], axis=1).astype(np.int32)
