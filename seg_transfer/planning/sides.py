"""Whether labels keep to one side: mirrored, such images would teach the network the wrong label."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from seg_transfer.planning.case_fingerprint import CaseFingerprint, LabelPosition

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


def keeps_sides(cases: Sequence[CaseFingerprint], names: Sequence[str], axis: int) -> str:
    """Say which labels keep to a side along an axis; empty if none does.

    Two labels do if the middle half of one lies beyond that of the other, in the same direction in nearly all cases. A
    single one does if it lies in the same half of the image in nearly all cases: mirrored, it would be another label or
    background there.

    Args:
        cases: Measurements of all cases.
        names: Of the labels, without background.
        axis: Canonical axis.
    """
    found = positions_along(cases, axis)
    reasons = []
    for first, second in itertools.combinations(range(len(names)), 2):
        both = [(a, b) for one in found if (a := one[first]) is not None and (b := one[second]) is not None]
        agree = _larger_group([order(a, b) for a, b in both])
        if len(both) >= FEWEST_PAIRS and agree >= NEARLY_ALL * len(both):
            pair = f"{names[first]} and {names[second]}"
            reasons.append(f"{pair} lie on opposite sides in {agree} of {len(both)} cases that hold both")
    for index, name in enumerate(names):
        held = [position for one in found if (position := one[index]) is not None]
        agree = _larger_group([half(position) for position in held])
        if len(held) >= FEWEST_SINGLE and agree >= NEARLY_ALL * len(held):
            share = float(np.median([max(position.low_half, 1 - position.low_half) for position in held]))
            reasons.append(f"{name} lies in the same half of {agree} of {len(held)} images ({share:.0%} of it)")
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


def _larger_group(signs: Sequence[int]) -> int:
    """How many of the signs agree: those of +1 or those of -1, whichever are more."""
    return max(signs.count(1), signs.count(-1))
