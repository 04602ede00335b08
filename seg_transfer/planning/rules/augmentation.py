"""How training patches are varied and how strongly, and which mirror images count as the same."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from seg_transfer.planning.cost import Configuration
from seg_transfer.planning.data_plan import Channel
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import Augmentation

NetworkAxis = Literal[0, 1, 2]

FEW_CASES, ENOUGH_CASES = 16, 100
"""Effective cases up to which augmentation is strong in a long training, and from which on it is nnU-Net's, whose own
data sets hold tens to hundreds of cases."""
MEASURED_STEPS, LONG_STEPS = 2400, 20_000
"""Up to so many steps strong augmentation did not pay, not even with 5 cases (``bench/recipe.py``: hippocampus in 3D
and cells in 2D; mild augmentation paid even less). Beyond that nothing is measured: it grows until the second."""
SETTINGS: dict[str, tuple[Any, Any]] = {
    "rotate_probability": (0.2, 0.4),
    "scale_probability": (0.2, 0.4),
    "noise_probability": (0.1, 0.15),
    "brightness_probability": (0.15, 0.3),
    "contrast_probability": (0.15, 0.3),
    "elastic_probability": (0.0, 0.1),
    "elastic_amount": (0.1, 0.2),
    "low_resolution_probability": (0.0, 0.1),
    "cutout_probability": (0.0, 0.1),
}
"""What differs between nnU-Net's published values (Isensee et al., Nature Methods 2021; the schema's defaults) and
strong augmentation. What nnU-Net has not, or what was not measured to help here, is off in the first."""
PICTURES = dict.fromkeys(("stretch_probability", "shear_probability", "lens_probability"), (0.0, 0.1))
COLOURS = {"colour_probability": (0.0, 0.2)}
DEGREES = 30.0
UNMEASURED = "off at strength 0 and mild above: not measured to help"
COLOUR_NAMES = ({"r", "red"}, {"g", "green"}, {"b", "blue"})
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


def strength(cases: int, labelled_slices: int, configuration: Configuration, steps: float) -> tuple[float, str]:
    """Choose how strongly patches are varied, from 0 (nnU-Net's way) to 1 (strong): measured in part.

    Few cases are soon known by heart, so in long trainings strength grows as they get fewer. In 2D a case gives many
    images, alike but not the same: the geometric mean of cases and labelled slices counts.

    Args:
        cases: Labelled cases that a fold trains on.
        labelled_slices: Their slices or pictures that hold a label.
        configuration: 2D, 2.5D or 3D.
        steps: Expected length of the training.
    """
    effective = math.sqrt(cases * max(cases, labelled_slices)) if configuration == "2d" else float(cases)
    need = float(np.interp(math.log(effective), np.log([FEW_CASES, ENOUGH_CASES]), [1.0, 0.0]))
    time = float(np.interp(math.log(max(steps, 1)), np.log([MEASURED_STEPS, LONG_STEPS]), [0.0, 1.0]))
    chosen = round(need * time, 2)
    counted = f"{cases} training cases"
    if configuration == "2d" and labelled_slices > cases:
        counted += f" with {labelled_slices} labelled slices count as {effective:.0f}"
    return chosen, (
        f"strength {chosen:g} (0 as nnU-Net, 1 strong): {need:.2g} for {counted} (1 up to {FEW_CASES}, 0 from "
        f"{ENOUGH_CASES} on), times {time:.2g} for about {steps:.0f} steps (0 up to {MEASURED_STEPS}, where more "
        f"did not pay, 1 from {LONG_STEPS} on)"
    )


def augmentation(
    strong: float,
    *,
    ratio: float,
    configuration: Configuration,
    unit: Literal["mm", "pixel"],
    channels: Sequence[Channel],
    mirrored: tuple[NetworkAxis, ...],
) -> tuple[Augmentation, dict[str, str]]:
    """Choose probabilities and ranges, between the usual and the strong setting.

    Args:
        strong: Strength in [0, 1].
        ratio: Anisotropy of the network's grid.
        configuration: 2D, 2.5D or 3D.
        unit: Pictures in pixels have no upright: they turn by any angle, if they may be mirrored too.
        channels: Of the plan; colours are jittered.
        mirrored: Axes of :func:`mirror_axes`.

    Returns:
        The choice, and the reasons of its fields by name.
    """
    pictures = unit == "pixel"
    tilted = configuration == "3d" and ratio <= ISOTROPIC_LIMIT
    coloured = is_colour(channels)
    settings = SETTINGS | (PICTURES if pictures else {}) | (COLOURS if coloured else {})
    degrees = 180.0 if pictures and mirrored else DEGREES
    chosen = Augmentation(
        **{name: _between(values, strong) for name, values in settings.items()},
        rotate_degrees=degrees,
        rotate_out_of_plane=tilted,
        mirror_axes=mirrored,
        low_resolution_axes=(0,) if configuration == "3d" else (1, 2),
    )
    tilt = "also" if tilted else "not"
    coarse = (
        "along slices, as if these were thicker" if configuration == "3d" else "in-plane: there is one slice, or few"
    )
    return chosen, {
        "rotate_degrees": f"turned by up to {degrees:g} degrees, {tilt} out of plane (3D up to anisotropy "
        f"{ISOTROPIC_LIMIT:g}: {ratio:.2g} here)",
        "elastic_probability": f"like low resolution and cutout {UNMEASURED}",
        "low_resolution_axes": coarse,
        "cutmix_probability": "off: not measured to help",
        "stretch_probability": f"like shear and lens distortion {UNMEASURED}"
        if pictures
        else "off, like shear and lens distortion: volumes are measured in millimetres, not taken through a lens",
        "colour_probability": UNMEASURED if coloured else "off: channels are not red, green and blue in a fixed range",
    }


def is_colour(channels: Sequence[Channel]) -> bool:
    """Whether the channels are those of a colour picture: called red, green and blue, in one range mapped to [0, 1]."""
    ranges = {(channel.normalization.lower, channel.normalization.upper) for channel in channels}
    return (
        len(channels) == 3
        and all(channel.name.lower() in names for channel, names in zip(channels, COLOUR_NAMES, strict=True))
        and all(channel.normalization.kind == "minmax" for channel in channels)
        and len(ranges) == 1
    )


def _between(values: tuple[Any, Any], strong: float) -> Any:
    """The setting at a strength, of a number or of each end of a range."""
    if isinstance(values[0], tuple):
        return tuple(_between(ends, strong) for ends in zip(*values, strict=True))
    return round(float(np.interp(strong, (0, 1), values)), 3)


def tta_axes(mirrored: tuple[NetworkAxis, ...]) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the axes mirrored at prediction: those of training; each doubles the time."""
    return mirrored, f"the axes mirrored in training: {2 ** len(mirrored)} pass(es)"
