"""Whether labels keep to one side: mirrored, such images would teach the network the wrong label."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from seg_transfer.planning.case_fingerprint import CaseFingerprint, LabelPosition
from seg_transfer.planning.counted import Count, Counted
from seg_transfer.util.records import Record

NEARLY_ALL = 0.9
"""Share of the cases that have to agree: a case whose header is wrong must not hide the others."""
HALF_SHARE = 0.85
"""Share of a label's voxels in one half of the image from which it lies there. Medians from left to right: the liver
0.95, the posterior hippocampus, which is mirrored, 0.80 (bench/mirroring.py)."""
FEWEST_PAIRS, FEWEST_SINGLE = 2, 5
"""Cases from which a pair, or a single label, counts: by chance five small ones share a half in 6 % of data sets."""
NAMED_SIDES = (
    ("left", "right"),
    ("l", "r"),
    ("lt", "rt"),
    ("lh", "rh"),
    ("links", "rechts"),
    ("linke", "rechte"),
    ("gauche", "droite"),
    ("gauche", "droit"),
    ("izquierdo", "derecho"),
    ("izquierda", "derecha"),
    ("sinistra", "destra"),
    ("sinistro", "destro"),
    ("sinister", "dexter"),
)
"""Words for left and right."""
CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a new word begins in ``KidneyLeft``."""
NAMED = 3
"""Labels that a reason names."""

Occurrences = Sequence[Sequence[LabelPosition | None]]
"""Per case and label its position along one axis; None where the case does not hold it."""


class Sides(Record):
    """Where labels lie along one canonical axis, counted over cases; no case has to be known for it."""

    pairs: tuple[tuple[Count, Count, Count], ...] = Field(
        description="per pair of labels: cases that hold both, and in which the first lies below, or above, the other"
    )
    single: tuple[tuple[Count, Count, Count], ...] = Field(
        description="per label: cases that hold it, and in which it lies in the lower, or in the upper, half"
    )
    share: tuple[Counted, ...] = Field(description="per label: its larger share in one half of the image")

    @model_validator(mode="after")
    def _is_consistent(self) -> Sides:
        labels = len(self.single)
        if len(self.pairs) != labels * (labels - 1) // 2 or len(self.share) != labels:
            raise ValueError(f"{len(self.pairs)} pairs and {len(self.share)} shares of {labels} labels")
        if any(one + other > held for held, one, other in (*self.pairs, *self.single)):
            raise ValueError("a side that more cases keep to than hold the labels")
        if any(share.size != held for share, (held, *_) in zip(self.share, self.single, strict=True)):
            raise ValueError("not one share per case that holds a label")
        return self

    @classmethod
    def of(cls, cases: Sequence[CaseFingerprint], axis: int) -> Sides:
        """Count the sides of all labels along a canonical axis."""
        labels = len(cases[0].labels)
        places = np.array(
            [
                [(np.nan,) * 3 if one is None else (one.lower, one.upper, one.low_half) for one in case]
                for case in positions_along(cases, axis)
            ]
        ).reshape(len(cases), labels, 3)
        lower, upper, low_half = np.moveaxis(places, 2, 0)
        held = ~np.isnan(lower)
        pairs = []
        for first in range(labels):  # a comparison with nan is False
            others = slice(first + 1, None)
            below, above = upper[:, first, None] <= lower[:, others], upper[:, others] <= lower[:, first, None]
            both = held[:, first, None] & held[:, others]
            pairs += np.stack([both.sum(0), (below & ~above).sum(0), (above & ~below).sum(0)], axis=1).tolist()
        single = np.stack([held.sum(0), (low_half >= HALF_SHARE).sum(0), (low_half <= 1 - HALF_SHARE).sum(0)], axis=1)
        larger = np.maximum(low_half, 1 - low_half)
        return cls(
            pairs=tuple(map(tuple, pairs)),
            single=tuple(map(tuple, single.tolist())),
            share=tuple(Counted.of(shares[there]) for shares, there in zip(larger.T, held.T, strict=True)),
        )

    def __add__(self, other: Sides) -> Sides:
        """Both together."""
        return Sides(
            pairs=_added(self.pairs, other.pairs),
            single=_added(self.single, other.single),
            share=tuple(one + two for one, two in zip(self.share, other.share, strict=True)),
        )


def keeps_sides(sides: Sides, names: Sequence[str]) -> str:
    """Say which labels keep to a side along an axis; empty if none does.

    Two labels do if the middle half of one lies beyond that of the other, in the same direction in nearly all cases. A
    single one does if it lies in the same half of the image in nearly all cases: mirrored, it would be another label or
    background there.

    Args:
        sides: Of all cases along the axis.
        names: Of the labels, without background.
    """
    reasons = []
    for (first, second), (both, below, above) in zip(itertools.combinations(names, 2), sides.pairs, strict=True):
        agree = max(below, above)
        if both >= FEWEST_PAIRS and agree >= NEARLY_ALL * both:
            reasons.append(f"{first} and {second} lie on opposite sides in {agree} of {both} cases that hold both")
    for name, (held, low, high), share in zip(names, sides.single, sides.share, strict=True):
        agree = max(low, high)
        if held >= FEWEST_SINGLE and agree >= NEARLY_ALL * held:
            in_half = f"{share.median():.0%} of it"
            reasons.append(f"{name} lies in the same half of {agree} of {held} images ({in_half})")
    more = len(reasons) - NAMED
    return "; ".join(reasons[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def named_against_place(cases: Sequence[CaseFingerprint], names: Sequence[str]) -> list[str]:
    """Pairs of labels that are named left and right, but lie the other way round in nearly all cases.

    Args:
        cases: Measurements of all cases.
        names: Of the labels, without background.

    Returns:
        One sentence per pair.
    """
    words = [words_of(name) for name in names]
    positions = positions_along(cases, 0)
    found = []
    for left, right in itertools.permutations(range(len(names)), 2):
        if not any(
            here in words[left] and there in words[right] and words[left] - {here} == words[right] - {there}
            for here, there in NAMED_SIDES
        ):
            continue
        both = [(a, b) for one in positions if (a := one[left]) is not None and (b := one[right]) is not None]
        wrong = sum(b.upper <= a.lower for a, b in both)  # x runs to the patient's right
        if len(both) >= FEWEST_PAIRS and wrong >= NEARLY_ALL * len(both):
            found.append(f"{names[left]} lies to the right of {names[right]} in {wrong} of {len(both)} cases")
    return found


def positions_along(cases: Sequence[CaseFingerprint], axis: int) -> Occurrences:
    """The positions of all labels along a canonical axis."""
    return [[None if label.positions is None else label.positions[axis] for label in case.labels] for case in cases]


def order(first: LabelPosition, second: LabelPosition) -> int:
    """1 if the middle half of the first label lies below that of the second, -1 if above, 0 if they overlap."""
    return (first.upper <= second.lower) - (second.upper <= first.lower)


def half(position: LabelPosition) -> int:
    """1 if a label lies in the lower half of the image, -1 if in the upper one, 0 if in both."""
    return (position.low_half >= HALF_SHARE) - (position.low_half <= 1 - HALF_SHARE)


def words_of(name: str) -> set[str]:
    """Words of a label's name in lower case: ``KidneyLeft`` and ``kidney_left`` have the same."""
    return set(re.split(r"[^a-z0-9]+", CAPITAL_INSIDE.sub(" ", name).lower()))


def _added(
    one: Sequence[tuple[int, int, int]], other: Sequence[tuple[int, int, int]]
) -> tuple[tuple[int, int, int], ...]:
    """Counts of two parts together."""
    pairs = zip(one, other, strict=True)
    return tuple((first[0] + then[0], first[1] + then[1], first[2] + then[2]) for first, then in pairs)
