"""Finds identical images under two names by a hash of their voxels, independent of file format and orientation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash


@dataclass(frozen=True)
class Duplicates:
    """Cases that hold the same image.

    Attributes:
        cases: Two or more identifiers, sorted.
        same_label: Whether their labels are the same too; if not, at least one label is wrong.
    """

    cases: tuple[str, ...]
    same_label: bool

    def __str__(self) -> str:
        label = "and the same label" if self.same_label else "under different labels, of which at most one is right"
        return f"{listing(self.cases)} hold the same image {label}"


def content_hash(channels: Sequence[np.ndarray]) -> str:
    """XXH3 hash of the channels' shape and values as float32, in 32 hexadecimal digits.

    Args:
        channels: Each ``(x, y, z)`` in canonical order, so that orientation, format and data type do not matter.
    """
    digest = xxhash.xxh3_128(repr((len(channels), *channels[0].shape)).encode())
    for channel in channels:
        for z in range(channel.shape[2]):  # in the usual order of files, a slice at a time to save memory
            digest.update(np.ascontiguousarray(channel[..., z].T, np.float32).data)
    return digest.hexdigest()


def find_duplicates(images: Mapping[str, str], labels: Mapping[str, str]) -> list[Duplicates]:
    """Find the cases whose images are identical.

    Args:
        images: Case -> :func:`content_hash` of its image.
        labels: Case -> :func:`content_hash` of its label.

    Returns:
        One entry per image that occurs more than once, sorted by case.
    """
    by_image: dict[str, list[str]] = defaultdict(list)
    for case, image in sorted(images.items()):
        by_image[image].append(case)
    return [
        Duplicates(tuple(cases), len({labels[case] for case in cases}) == 1)
        for cases in by_image.values()
        if len(cases) > 1
    ]


def listing(names: tuple[str, ...]) -> str:
    """``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
