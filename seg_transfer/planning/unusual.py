"""Says which cases of a data set are unlike its other cases: signs of a wrong file, header or label.

A case is compared with the others as an image at prediction is with the training images
(:mod:`seg_transfer.planning.unlike_training`). The tenth of all cases that is most similar to it is left out, so that a
few wrong cases of one kind do not hide each other. ``bench/case_checks.py`` counts false alarms on five data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from seg_transfer.data.fragments import Fragments
from seg_transfer.planning.case_fingerprint import CaseFingerprint, CaseLabel, LabelPosition
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.training_images import PRIOR_CASES, measures_of, spreads, training_images
from seg_transfer.planning.sides import HALF_SHARE
from seg_transfer.planning.unlike_training import limit_of, outside, unlike_training

FEWEST_OTHERS = 4
"""Cases that a case is compared with, at least."""
SIMILAR_SHARE = 0.1
"""Share of the cases, those most similar to a case, that it is not compared with."""
PRIOR_LABEL = 0.5
"""Prior, and least, standard deviation of the log of a label's volume and of its number of fragments: nine times the
usual volume is then far outside of five other cases, however alike they are."""
NEARLY_ALL = 0.8
"""Share of the other cases in which something has to hold for a case to be an exception."""
NAMED = 3
"""Pairs of labels that a message names."""
AXES = {3: ("left-right", "back-front", "feet-head"), 2: ("x", "y")}


def unusual(
    fingerprint: Fingerprint, fragments: Mapping[str, Sequence[Fragments]], only: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Describe in what each case is unlike the others; cases that are like the others are left out.

    Args:
        fingerprint: Measurements of the cases.
        fragments: Case -> fragments of each of its labels, without background; cases may be missing.
        only: Compare this case only.
    """
    found: dict[str, tuple[str, ...]] = {}
    if len(fingerprint.cases) <= FEWEST_OTHERS:
        return found
    names = [label.name for label in fingerprint.labels]
    channels = [channel.name for channel in fingerprint.channels]
    figures = _figures(fingerprint)
    for index, case in enumerate(fingerprint.cases):
        if only not in (None, case.id):
            continue
        compared = tuple(fingerprint.cases[other] for other in _others(figures, index))
        training = training_images(fingerprint.model_copy(update={"cases": compared}))
        others = [other for other in fingerprint.cases if other is not case]
        texts = [
            *unlike_training(measures_of(case), training, channels, fingerprint.unit),
            *_constant(case, channels),
            *_labels(case, others, names, fragments),
            *_sides(case, others, names, AXES[fingerprint.dimension]),
        ]
        if texts:
            found[case.id] = tuple(texts)
    return found


def _figures(fingerprint: Fingerprint) -> np.ndarray:
    """What images are compared by, ``(case, figure)``, each in units of its typical spread."""
    rows = []
    stds = np.array([[channel.std for channel in case.channels] for case in fingerprint.cases])
    scales = [float(scale) or 1.0 for scale in np.median(stds, axis=0)]
    for case in fingerprint.cases:
        image = measures_of(case)
        row = [value for channel, scale in zip(image.channels, scales, strict=True) for value in channel.figures(scale)]
        rows.append([*row, *image.log_spacing(fingerprint.dimension), *image.log_size(fingerprint.dimension)])
    figures = np.array(rows)
    return figures / np.maximum(figures.std(axis=0), 1e-9)


def _others(figures: np.ndarray, index: int) -> list[int]:
    """The cases that a case's image is compared with."""
    distance = np.abs(figures - figures[index]).max(axis=1)
    distance[index] = -1.0
    similar = int(SIMILAR_SHARE * len(figures))
    left_out = set(np.argsort(distance, kind="stable")[: 1 + similar].tolist())
    return [other for other in range(len(figures)) if other not in left_out]


def _constant(case: CaseFingerprint, names: Sequence[str]) -> Iterator[str]:
    for name, channel in zip(names, case.channels, strict=True):
        if channel.minimum == channel.maximum:
            yield f"{name}: every voxel has the value {channel.minimum:g}"


def _labels(
    case: CaseFingerprint,
    others: Sequence[CaseFingerprint],
    names: Sequence[str],
    fragments: Mapping[str, Sequence[Fragments]],
) -> Iterator[str]:
    """Labels that are missing, very large or small, or in many fragments."""
    for index, name in enumerate(names):
        label = case.labels[index]
        held = [other for other in others if other.labels[index].voxels]
        if not label.voxels:
            if len(others) >= FEWEST_OTHERS and len(held) >= max(NEARLY_ALL * len(others), 1):
                yield f"{name} is missing; {len(held)} of {len(others)} other cases hold it"
            continue
        if len(held) < FEWEST_OTHERS:
            continue
        unit = "voxels" if label.ml is None else "ml"
        yield from _far(f"{name}: volume in {unit}", _size(label), [_size(other.labels[index]) for other in held])
        if case.id in fragments:
            of_others = [fragments[other.id][index] for other in held if other.id in fragments]
            yield from _fragmented(name, fragments[case.id][index], of_others)


def _size(label: CaseLabel) -> float:
    return float(label.voxels) if label.ml is None else label.ml


def _far(what: str, value: float, others: Sequence[float]) -> Iterator[str]:
    """A positive figure that is far outside of those of other cases."""
    (spread,) = spreads([[math.log(other)] for other in others], PRIOR_LABEL)
    limit = limit_of(len(others) - 1 + PRIOR_CASES, 1)
    if text := outside(what, math.log(value), spread, limit, math.exp):
        yield text


def _fragmented(name: str, own: Fragments, others: Sequence[Fragments]) -> Iterator[str]:
    if len(others) < FEWEST_OTHERS:
        return
    whole = sum(other.count == 1 for other in others)
    if own.count > 1 and whole >= NEARLY_ALL * len(others):
        largest = f"the largest has {own.largest_share:.1%} of it"
        yield f"{name} is in {own.count} fragments ({largest}), in {whole} of {len(others)} other cases in one"
    elif own.count > max(other.count for other in others):
        yield from _far(f"{name}: number of fragments", own.count, [other.count for other in others])


def _sides(
    case: CaseFingerprint, others: Sequence[CaseFingerprint], names: Sequence[str], axes: Sequence[str]
) -> Iterator[str]:
    """Labels that lie the other way round than in the other cases: exchanged, or the image is mirrored."""
    for axis, direction in enumerate(axes):
        reasons = []
        for first in range(len(names)):
            for second in range(first):
                own, agree, count = _exception(case, others, partial(_order, first=first, second=second, axis=axis))
                if own:
                    reasons.append(f"{names[second]} and {names[first]} ({agree} of {count})")
        if reasons:
            more = f" and {len(reasons) - NAMED} more pairs" if len(reasons) > NAMED else ""
            yield (
                f"lie the other way round {direction} than in other cases: {', '.join(reasons[:NAMED])}{more}; are "
                "these labels exchanged, or is the image mirrored?"
            )
            continue
        for index, name in enumerate(names):
            own, agree, count = _exception(case, others, partial(_half, label=index, axis=axis))
            if own:
                yield (
                    f"{name} lies in the other half of the image, {direction}, than in {agree} of {count} other cases; "
                    "is the image mirrored?"
                )


Sign = Callable[[CaseFingerprint], int | None]
"""1 or -1 for the two ways round, 0 for neither; None where the case does not hold the labels."""


def _exception(case: CaseFingerprint, others: Sequence[CaseFingerprint], sign: Sign) -> tuple[bool, int, int]:
    """Whether a case has another sign than nearly all others, how many of them have the opposite, and of how many."""
    own = sign(case)
    if not own:
        return False, 0, 0
    known = [value for other in others if (value := sign(other)) is not None]
    agree = known.count(-own)
    return len(known) >= FEWEST_OTHERS and agree >= NEARLY_ALL * len(known), agree, len(known)


def _position(case: CaseFingerprint, label: int, axis: int) -> LabelPosition | None:
    positions = case.labels[label].positions
    return None if positions is None else positions[axis]


def _order(case: CaseFingerprint, first: int, second: int, axis: int) -> int | None:
    """1 if the middle half of the first label lies below that of the second, -1 if above, 0 if they overlap."""
    a, b = _position(case, first, axis), _position(case, second, axis)
    return None if a is None or b is None else (a.upper <= b.lower) - (b.upper <= a.lower)


def _half(case: CaseFingerprint, label: int, axis: int) -> int | None:
    """1 if the label lies in the lower half of the image, -1 if in the upper one, 0 if in both."""
    a = _position(case, label, axis)
    return None if a is None else (a.low_half >= HALF_SHARE) - (a.low_half <= 1 - HALF_SHARE)
