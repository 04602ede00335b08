"""Identical images under two names: found by a hash of their voxels, however the files store them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HASH_BYTES = 16


@dataclass(frozen=True)
class Duplicates:
    """Cases that hold the same image.

    Attributes:
        cases: Two or more identifiers, sorted.
        same_label: Whether their labels are the same too; if not, at least one of them is wrong.
    """

    cases: tuple[str, ...]
    same_label: bool

    def __str__(self) -> str:
        label = "and the same label" if self.same_label else "under different labels, of which one at most is right"
        return f"{listing(self.cases)} hold the same image {label}"


def content_hash(array: np.ndarray) -> str:
    """BLAKE2b of an array's shape and its values as float32, 32 hex digits.

    Args:
        array: ``(..., x, y, z)`` in canonical order: then files of another orientation, format or data type hash alike.
    """
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=HASH_BYTES)
    for index in np.ndindex(array.shape[:-2]):  # a large volume is not copied as a whole
        digest.update(np.ascontiguousarray(array[index], np.float32).data)
    return digest.hexdigest()


def find_duplicates(images: Mapping[str, str], labels: Mapping[str, str]) -> list[Duplicates]:
    """Find the cases whose images are identical.

    Args:
        images: Case -> :func:`content_hash` of its image.
        labels: Case -> that of its label.

    Returns:
        One entry per image that occurs more than once, sorted.
    """
    holders: dict[str, list[str]] = defaultdict(list)
    for case, image in sorted(images.items()):
        holders[image].append(case)
    found = [
        Duplicates(tuple(cases), len({labels[case] for case in cases}) == 1)
        for cases in holders.values()
        if len(cases) > 1
    ]
    return sorted(found, key=lambda one: one.cases)


def listing(names: tuple[str, ...]) -> str:
    """``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
