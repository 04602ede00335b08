"""Where the labels of a stored case are: the places that patches are centred on."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LOCATIONS_PER_CLASS = 10_000
"""More are sampled: all voxels of a label up to 0.01 % of a volume of 10^8 voxels stay."""
Place = int | Literal["annotated"]
"""What lies at a place: a class index, or any class, background included."""


def count_classes(label: NDArray[np.unsignedinteger], classes: int) -> NDArray[np.int64]:
    """Voxels of each class in each slice, ``(slice, class)``; slice by slice, since counting takes 8 bytes a voxel."""
    return np.stack([np.bincount(plane.reshape(-1), minlength=classes) for plane in label])


def sample_locations(
    label: NDArray[np.unsignedinteger], counts: NDArray[np.int64], *, seed: int, not_annotated: int | None = None
) -> dict[Place, NDArray[np.int32]]:
    """Voxels of each foreground class, for patches to be centred on.

    Args:
        label: Class indices ``(slice, u, v)``.
        counts: Of :func:`count_classes`.
        seed: Decides which voxels stay where there are more than 10,000; no voxel of a smaller class is lost.
        not_annotated: Class index of voxels that are not annotated, which are no place to be centred on; None where
            the plan has no ``ignore``.

    Returns:
        Class index -> ``(n, 3)`` in ``(slice, u, v)``, in memory order; classes that do not occur are absent. Unless
        ``not_annotated`` is None also ``"annotated"``: voxels of any class, background included.
    """
    generator = np.random.default_rng(seed)
    classes = [index for index in range(counts.shape[1]) if index != not_annotated]
    found: dict[Place, NDArray[np.int32]] = {
        index: _sample(label, counts, [index], generator) for index in classes[1:] if counts[:, index].any()
    }
    if not_annotated is not None:
        found["annotated"] = _sample(label, counts, classes, generator)
    return found


def _sample(
    label: NDArray[np.unsignedinteger], counts: NDArray[np.int64], classes: list[int], generator: np.random.Generator
) -> NDArray[np.int32]:
    """At most 10,000 of the voxels of these classes together; holds one slice at a time."""
    wanted = np.zeros(counts.shape[1], bool)
    wanted[classes] = True
    ends = np.cumsum(counts[:, wanted].sum(axis=1))
    total = int(ends[-1])
    if total > LOCATIONS_PER_CLASS:
        chosen = np.sort(generator.choice(total, LOCATIONS_PER_CLASS, replace=False))
    else:
        chosen = np.arange(total)
    places = np.empty((len(chosen), 3), np.int32)
    bounds = np.searchsorted(chosen, [0, *ends])
    for index, (first, last) in enumerate(itertools.pairwise(bounds)):
        if first < last:
            before = ends[index - 1] if index else 0
            u, v = np.nonzero(wanted[label[index]])
            rank = chosen[first:last] - before
            places[first:last] = np.stack([np.full(len(rank), index), u[rank], v[rank]], axis=1)
    return places
