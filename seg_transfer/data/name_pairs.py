"""Pairs label maps with images whose names differ by what all files of a kind share: label0001 and img0001."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

_RUN = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
"""Letters, digits, or anything else, such as underscores."""


def pair_names(labels: Collection[str], images: Collection[str]) -> dict[str, str]:
    """Find the image of each label map, where names of a kind begin or end alike.

    ``ISIC_01_segmentation`` belongs to ``ISIC_01``, ``label0001`` to ``img0001``, ``21_manual1`` to ``21_training``.
    As little as possible is left out of the names, in whole runs of letters or digits; case does not matter.

    Args:
        labels: Names of all label maps, without endings.
        images: Names of all images, likewise.

    Returns:
        Name of a label map -> name of its image. Empty unless every label map has exactly one image of its own, and if
        names can be paired in several ways.
    """
    images_by_rest = list(_rests(images))
    found = [
        (of_labels.length + of_images.length, {label: image[rest] for rest, label in names.items()})
        for of_labels, names in _rests(labels)
        for of_images, image in images_by_rest
        if of_labels.numbers == of_images.numbers and names.keys() <= image.keys()
    ]
    least = min((left_out for left_out, _ in found), default=0)
    best = [pairs for left_out, pairs in found if left_out == least]
    return best[0] if best and all(pairs == best[0] for pairs in best) else {}


class _LeftOut(NamedTuple):
    """What is left out of all names of a kind.

    Attributes:
        length: Number of letters and digits.
        numbers: Numbers that stand alone; that of ``manual1`` is part of a word. Both kinds must leave out the same:
            ``1_reader2`` belongs to image 1, not 2.
    """

    length: int
    numbers: list[str]

    @classmethod
    def of(cls, *parts: Sequence[str]) -> _LeftOut:
        """Of runs at the start and at the end."""
        alone = [
            run for runs in parts for before, run in pairwise(["", *runs]) if run.isdigit() and not before.isalpha()
        ]
        return cls(sum(len(run) for runs in parts for run in runs if run.isalnum()), sorted(alone))


def _rests(names: Collection[str]) -> Iterator[tuple[_LeftOut, dict[str, str]]]:
    """Each way to leave out what all names begin or end with, and rest -> name.

    Ways by which two names have the same rest, or one has none, are left out.
    """
    runs = {name: _RUN.findall(name.casefold()) for name in names}
    if not runs:
        return
    first = next(iter(runs.values()))
    starts, ends = _shared(list(runs.values())), _shared([each[::-1] for each in runs.values()])
    for start in range(starts + 1):
        for end in range(ends + 1):
            kept = first[start : len(first) - end]
            if (start and kept and not kept[0].isalnum()) or (end and kept and not kept[-1].isalnum()):
                continue  # with the separator it is the same rest
            rests = {_rest(each[start : len(each) - end]): name for name, each in runs.items()}
            if len(rests) == len(names) and "" not in rests:
                yield _LeftOut.of(first[:start], first[len(first) - end :]), rests


def _shared(names: Sequence[Sequence[str]]) -> int:
    """The number of runs that all names begin with."""
    return sum(1 for _ in takewhile(lambda runs: len(set(runs)) == 1, zip(*names, strict=False)))


def _rest(runs: Sequence[str]) -> str:
    return re.sub(r"^[\W_]+|[\W_]+$", "", "".join(runs))
