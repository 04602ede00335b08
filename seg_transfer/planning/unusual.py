"""Says which cases of a data set are unlike its other cases: signs of a wrong file, header or label.

A case is compared with the others as an image at prediction is with the training images
(:mod:`seg_transfer.planning.unlike_training`). The tenth of all cases that is most similar to it is left out, so that a
few wrong cases of one kind do not hide each other. ``bench/case_checks.py`` counts false alarms on five data sets.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from seg_transfer.data.fragments import Fragments
from seg_transfer.planning.case_fingerprint import CaseFingerprint
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.rules.training_images import (
    PRIOR_INTENSITY,
    PRIOR_VOLUME,
    measures_of,
    spreads,
    training_images,
)
from seg_transfer.planning.sides import half, order, positions_along
from seg_transfer.planning.site_parts import SiteImages
from seg_transfer.planning.training_images import PRIOR_CASES
from seg_transfer.planning.unlike_training import limit_of, looks_like, outside, unlike_training
from seg_transfer.planning.unlike_volumes import FEWEST_OTHERS, NEARLY_ALL

SIMILAR_SHARE = 0.1
"""Share of the cases, those most similar to a case, that it is not compared with."""
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
    cases = tuple(fingerprint.cases)
    if len(cases) <= FEWEST_OTHERS:
        return {}
    names = [label.name for label in fingerprint.labels]
    channels = [channel.name for channel in fingerprint.channels]
    figures = _figures(cases, fingerprint.dimension)
    volumes, parts = _volumes(cases), _fragment_counts(cases, len(names), fragments)
    brightness = _brightness(cases)
    sides = _sides(cases, names, AXES[fingerprint.dimension])
    found = {}
    for index, case in enumerate(cases):
        if only not in (None, case.id):
            continue
        training = training_images(SiteImages.of(_others(cases, figures, index)), fingerprint.dimension)
        image = measures_of(case)
        texts = [
            *unlike_training(image, training, channels, fingerprint.unit),
            *_constant(case, channels),
            *_unlike_labels(cases[index], names, index, volumes, parts, fragments),
            *sides[index],
        ]
        bright = list(_unlike_brightness(names, channels, index, brightness))
        if bright and looks_like(image, training) == list(range(len(channels))):  # else it was said above
            texts += bright
        if texts:
            found[case.id] = tuple(texts)
    return found


def _figures(cases: Sequence[CaseFingerprint], dimension: int) -> np.ndarray:
    """What images are compared by, ``(case, figure)``, each in units of its typical spread."""
    rows = []
    stds = np.array([[channel.std for channel in case.channels] for case in cases])
    scales = [float(scale) or 1.0 for scale in np.median(stds, axis=0)]
    for case in cases:
        image = measures_of(case)
        row = [value for channel, scale in zip(image.channels, scales, strict=True) for value in channel.figures(scale)]
        rows.append([*row, *image.log_spacing(dimension), *image.log_size(dimension)])
    figures = np.array(rows)
    return figures / np.maximum(figures.std(axis=0), 1e-9)


def _others(cases: tuple[CaseFingerprint, ...], figures: np.ndarray, index: int) -> tuple[CaseFingerprint, ...]:
    """The cases that a case's image is compared with."""
    distance = np.abs(figures - figures[index]).max(axis=1)
    distance[index] = -1.0
    similar = int(SIMILAR_SHARE * len(figures))
    left_out = set(np.argsort(distance, kind="stable")[: 1 + similar].tolist())
    return tuple(case for other, case in enumerate(cases) if other not in left_out)


def _constant(case: CaseFingerprint, names: Sequence[str]) -> Iterator[str]:
    for name, channel in zip(names, case.channels, strict=True):
        if channel.minimum == channel.maximum:
            yield f"{name}: every voxel has the value {channel.minimum:g}"


def _volumes(cases: Sequence[CaseFingerprint]) -> np.ndarray:
    """Volume of each label ``(case, label)``; nan where the case does not hold it."""
    sizes = [[one.volume for one in case.labels] for case in cases]
    return np.where(np.array(sizes) > 0, sizes, np.nan)


def _fragment_counts(
    cases: Sequence[CaseFingerprint], labels: int, fragments: Mapping[str, Sequence[Fragments]]
) -> np.ndarray:
    """Number of fragments of each label ``(case, label)``; nan where it is not known, or the case does not hold it."""
    unknown = [math.nan] * labels
    counts = [
        [one.count or math.nan for one in fragments[case.id]] if case.id in fragments else unknown for case in cases
    ]
    return np.array(counts, dtype=float)


def _unlike_labels(
    case: CaseFingerprint,
    names: Sequence[str],
    index: int,
    volumes: np.ndarray,
    parts: np.ndarray,
    fragments: Mapping[str, Sequence[Fragments]],
) -> Iterator[str]:
    """Labels of a case that are missing, very large or small, or in many fragments."""
    other_volumes, other_parts = np.delete(volumes, index, axis=0), np.delete(parts, index, axis=0)
    for number, name in enumerate(names):
        held = ~np.isnan(other_volumes[:, number])
        if np.isnan(volumes[index, number]):
            if held.sum() >= max(NEARLY_ALL * len(held), 1):
                yield f"{name} is missing; {held.sum()} of {len(held)} other cases hold it"
            continue
        if held.sum() < FEWEST_OTHERS:
            continue
        unit = "voxels" if case.labels[number].ml is None else "ml"
        yield from _far_log(f"{name}: volume in {unit}", volumes[index, number], other_volumes[held, number])
        known = other_parts[~np.isnan(other_parts[:, number]), number]
        if case.id in fragments and len(known) >= FEWEST_OTHERS:
            yield from _fragmented(name, fragments[case.id][number], known)


def _far_log(what: str, value: float, others: np.ndarray) -> Iterator[str]:
    """A positive figure whose log is far outside of those of other cases."""
    if text := _far(what, math.log(value), np.log(others), PRIOR_VOLUME, unscale=math.exp):
        yield text


def _far(
    what: str,
    value: float,
    others: np.ndarray,
    prior: float,
    *,
    figures: int = 1,
    unscale: Callable[[float], float] = float,
) -> str:
    """A figure that is far outside of those of other cases, with its limits; else an empty text."""
    (spread,) = spreads(others[:, np.newaxis], prior, [1] * len(others))
    return outside(what, value, spread, limit_of(len(others) - 1 + PRIOR_CASES, figures), unscale)


def _brightness(cases: Sequence[CaseFingerprint]) -> np.ndarray:
    """Mean of each label above the image's, in the image's standard deviations ``(case, channel, label)``.

    It is nan where the case does not hold the label, and where all voxels are equal.
    """
    values = [
        [
            [
                math.nan if mean is None or not channel.std else (mean - channel.mean) / channel.std
                for mean in channel.label_means[1:]
            ]
            for channel in case.channels
        ]
        for case in cases
    ]
    return np.array(values, dtype=float)


def _unlike_brightness(
    names: Sequence[str], channels: Sequence[str], index: int, brightness: np.ndarray
) -> Iterator[str]:
    """Labels of a case that are much darker or brighter in its image than in other cases'.

    The label map may be another case's, the labels may be exchanged, or the structure looks otherwise here: then a
    network that learned from the other cases misses it.
    """
    own, others = brightness[index], np.delete(brightness, index, axis=0)
    for number, name in enumerate(names):
        parts = []
        for channel, called in enumerate(channels):
            value, known = float(own[channel, number]), others[:, channel, number]
            known = known[~np.isnan(known)]
            known = known[np.argsort(abs(known - value), kind="stable")[int(SIMILAR_SHARE * len(brightness)) :]]
            if not math.isnan(value) and len(known) >= FEWEST_OTHERS:
                parts.append(_far(called, value, known, PRIOR_INTENSITY, figures=own.size))
        if any(parts):
            told = "; ".join(filter(None, parts))
            yield f"{name} is unusually dark or bright: {told} standard deviations above the image's mean"


def _fragmented(name: str, own: Fragments, others: np.ndarray) -> Iterator[str]:
    """A label that is in one fragment elsewhere, or in very many; ``others`` are the numbers in other cases."""
    whole = int((others == 1).sum())
    if own.count > 1 and whole >= NEARLY_ALL * len(others):
        largest = f"the largest has {own.largest_share:.1%} of it"
        yield f"{name} is in {own.count} fragments ({largest}), in {whole} of {len(others)} other cases in one"
    elif own.count > others.max():
        yield from _far_log(f"{name}: number of fragments", own.count, others)


def _sides(cases: Sequence[CaseFingerprint], names: Sequence[str], axes: Sequence[str]) -> list[list[str]]:
    """Per case, labels that lie the other way round than in the other cases: exchanged, or the image is mirrored."""
    found: list[list[str]] = [[] for _ in cases]
    for axis, direction in enumerate(axes):
        positions = positions_along(cases, axis)
        pairs: dict[int, list[str]] = defaultdict(list)
        for first in range(len(names)):
            for second in range(first):
                both = [(one[first], one[second]) for one in positions]
                signs = [None if a is None or b is None else order(a, b) for a, b in both]
                for index, agree, count in _exceptions(signs):
                    pairs[index].append(f"{names[second]} and {names[first]} ({agree} of {count})")
        for index, told in pairs.items():
            more = f" and {len(told) - NAMED} more pairs" if len(told) > NAMED else ""
            found[index].append(
                f"lie the other way round {direction} than in other cases: {', '.join(told[:NAMED])}{more}; are "
                "these labels exchanged, or is the image mirrored?"
            )
        for label, name in enumerate(names):
            signs = [None if (one := held[label]) is None else half(one) for held in positions]
            for index, agree, count in _exceptions(signs):
                if index not in pairs:
                    found[index].append(
                        f"{name} lies in the other half of the image, {direction}, than in {agree} of {count} other "
                        "cases; is the image mirrored?"
                    )
    return found


def _exceptions(signs: Sequence[int | None]) -> Iterator[tuple[int, int, int]]:
    """Cases whose sign is the opposite of that of nearly all others.

    Args:
        signs: Per case 1 or -1 for the two ways round, 0 for neither; None where it does not hold the labels.

    Yields:
        The case's index, how many others have the opposite sign, and of how many.
    """
    others = len(signs) - signs.count(None) - 1
    if others < FEWEST_OTHERS:
        return
    for sign in (1, -1):
        agree = signs.count(-sign)
        if agree >= NEARLY_ALL * others:
            yield from ((index, agree, others) for index, own in enumerate(signs) if own == sign)
