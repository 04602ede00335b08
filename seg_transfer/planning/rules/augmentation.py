"""How training patches are varied, and which mirror images count as the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from seg_transfer.planning.cost import Configuration
from seg_transfer.planning.plan import Augmentation, Triple

NetworkAxis = Literal[0, 1, 2]

FEW_CASES = 30
ISOTROPIC_LIMIT = 1.5
SIDES = {"left", "right"}
"""Words in a label's name that a mirror image from left to right would make wrong."""
SHORT_SIDES = ({"l", "r"}, {"lt", "rt"}, {"lh", "rh"})
"""Abbreviations of left and right; only a pair of them counts."""
CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a new word begins in ``KidneyLeft``."""
LEFT_RIGHT = 0
"""Canonical axis x."""


def mirror_axes(
    labels: Sequence[str], axes: Triple, configuration: Configuration, unit: Literal["mm", "pixel"]
) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the network axes along which mirroring gives pictures that could have been taken, under true names.

    Bodies are nearly symmetric from left to right and in no other direction: on hippocampus, volumes mirrored along
    the slices as well reached a lower Dice in the same time (docs/log.md, 2026-11-22). Pictures have no upright, unless
    their labels tell sides apart: a mirror image along either axis would then swap them.

    Args:
        labels: Names, background left out.
        axes: Canonical axis of slice, u and v.
        configuration: 2D reads a single slice, which has no mirror image along the slice axis.
        unit: ``pixel`` for pictures.
    """
    sided = _sided(labels)
    if unit == "pixel":
        if sided:
            return (), f"not mirrored, which would swap what {', '.join(sided)} mean"
        return (1, 2), "mirrored along u and v: pictures have no upright"
    across: NetworkAxis = axes.index(LEFT_RIGHT)  # type: ignore[assignment]
    if across == 0 and configuration == "2d":
        return (), "not mirrored: left and right lie along the slice axis, of which 2D reads a single slice"
    if sided:
        return (), f"not mirrored from left to right, which would swap what {', '.join(sided)} mean"
    name = ("slice", "u", "v")[across]
    return (across,), f"mirrored along {name} (left to right): bodies are nearly symmetric there, and only there"


def _sided(labels: Sequence[str]) -> list[str]:
    """Labels whose names tell left from right: ``left_kidney``, ``KidneyLeft``, ``kidney_l`` beside ``kidney_r``."""
    words = {label: set(re.split(r"[^a-z0-9]+", CAPITAL_INSIDE.sub(" ", label).lower())) for label in labels}
    every = set().union(*words.values())
    pairs = [pair for pair in SHORT_SIDES if pair <= every]
    return [label for label, parts in words.items() if parts & SIDES or any(pair & parts for pair in pairs)]


def augmentation(
    cases: int, ratio: float, configuration: Configuration, unit: str, mirrored: tuple[NetworkAxis, ...]
) -> tuple[Augmentation, str]:
    """Choose how strongly patches are varied; the ranges are nnU-Net's, the probabilities rise with few cases.

    Args:
        cases: Labelled cases that a fold trains on.
        ratio: Anisotropy of the network's grid.
        configuration: 2D, 2.5D or 3D.
        unit: Pictures in pixels have no upright: they turn by any angle, if they may be mirrored too.
        mirrored: Axes of :func:`mirror_axes`.
    """
    few = cases < FEW_CASES
    tilted = configuration == "3d" and ratio <= ISOTROPIC_LIMIT
    degrees = 180.0 if unit == "pixel" and mirrored else 30.0
    chosen = Augmentation(
        rotate_probability=0.4 if few else 0.2,
        rotate_degrees=degrees,
        rotate_out_of_plane=tilted,
        scale_probability=0.4 if few else 0.2,
        mirror_axes=mirrored,
        noise_probability=0.15 if few else 0.1,
        brightness_probability=0.3 if few else 0.15,
        contrast_probability=0.3 if few else 0.15,
    )
    strength = "stronger" if few else "usual"
    tilt = "also" if tilted else "not"
    return chosen, (
        f"{strength} for {cases} training cases (few below {FEW_CASES}); turned by up to {degrees:g} degrees, {tilt} "
        f"out of plane (3D up to anisotropy {ISOTROPIC_LIMIT:g}: {ratio:.2g} here)"
    )


def tta_axes(mirrored: tuple[NetworkAxis, ...]) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the axes mirrored at prediction: those of training; each doubles the time."""
    return mirrored, f"the axes mirrored in training: {2 ** len(mirrored)} pass(es)"
