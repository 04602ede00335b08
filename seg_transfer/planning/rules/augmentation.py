"""Augmentation of training patches, and the axes that are mirrored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from seg_transfer.options.choices import Configuration, Head
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import Augmentation

NetworkAxis = Literal[0, 1, 2]

NNUNET_REASON = (
    "nnU-Net's probabilities and ranges (Isensee et al., Nature Methods 2021): on hippocampus with 5 and 20 cases, "
    "weaker and stronger ones gave a lower Dice (docs/log.md, 2026-11-22)"
)
OFF = "off: not measured to help"
DEGREES, ANY_DEGREES = 30.0, 180.0
ISOTROPIC_LIMIT = 1.5
"""Anisotropy up to which a 3D patch is rotated about every axis."""
SIDES = {"left", "right"}
"""Words in a label's name that mirroring from left to right would make wrong."""
SHORT_SIDES = ({"l", "r"}, {"lt", "rt"}, {"lh", "rh"})
"""Abbreviations of left and right; only a pair of them counts."""
CAPITAL_INSIDE = re.compile(r"(?<=[a-z])(?=[A-Z])")
"""Where a new word begins in ``KidneyLeft``."""
LEFT_RIGHT = 0
"""Canonical axis x."""


def mirror_axes(
    labels: Sequence[str], axes: Triple, configuration: Configuration, unit: Literal["mm", "pixel"]
) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the network axes along which mirrored images are plausible and keep their labels.

    Bodies are nearly symmetric from left to right and in no other direction: on hippocampus, volumes mirrored along
    the slices as well reached a lower Dice in the same time (docs/log.md, 2026-11-22). 2D images have no fixed
    orientation, unless their labels name sides: mirroring along either axis would swap these.

    Args:
        labels: Names, without background.
        axes: Canonical axis of slice, u and v.
        configuration: 2D reads a single slice, which cannot be mirrored along the slice axis.
        unit: ``pixel`` for 2D images.
    """
    sided = _sided(labels)
    if unit == "pixel":
        if sided:
            return (), f"not mirrored: that would swap the sides that {', '.join(sided)} name"
        return (1, 2), "mirrored along u and v: 2D images have no fixed orientation"
    across: NetworkAxis = axes.index(LEFT_RIGHT)  # type: ignore[assignment]
    if across == 0 and configuration == "2d":
        return (), "not mirrored: left and right lie along the slice axis, of which 2D reads a single slice"
    if sided:
        return (), f"not mirrored from left to right: that would swap the sides that {', '.join(sided)} name"
    name = ("slice", "u", "v")[across]
    return (across,), f"mirrored along {name} (left to right): bodies are nearly symmetric there, and only there"


def _sided(labels: Sequence[str]) -> list[str]:
    """Labels whose names hold a side: ``left_kidney``, ``KidneyLeft``, ``kidney_l`` beside ``kidney_r``."""
    words = {label: set(re.split(r"[^a-z0-9]+", CAPITAL_INSIDE.sub(" ", label).lower())) for label in labels}
    all_words = set().union(*words.values())
    pairs = [pair for pair in SHORT_SIDES if pair <= all_words]
    return [label for label, parts in words.items() if parts & SIDES or any(pair & parts for pair in pairs)]


def augmentation(
    *, ratio: float, configuration: Configuration, unit: Literal["mm", "pixel"], mirrored: tuple[NetworkAxis, ...]
) -> tuple[Augmentation, dict[str, str]]:
    """Choose what depends on the data; probabilities and ranges are the schema's defaults, which are nnU-Net's.

    Transforms that nnU-Net lacks (stretch, shear, lens distortion, colour), and low resolution, are off until a
    measurement supports them; the plan can be edited.

    Args:
        ratio: Anisotropy of the network's grid.
        configuration: 2D, 2.5D or 3D.
        unit: ``pixel`` for 2D images. Mirrored ones are rotated by any angle.
        mirrored: Axes of :func:`mirror_axes`.

    Returns:
        The augmentation, and field -> reason.
    """
    is_image, is_3d = unit == "pixel", configuration == "3d"
    tilted = is_3d and ratio <= ISOTROPIC_LIMIT
    degrees = ANY_DEGREES if is_image and mirrored else DEGREES
    return Augmentation(
        rotate_degrees=degrees,
        rotate_out_of_plane=tilted,
        mirror_axes=mirrored,
        low_resolution_axes=(0,) if is_3d else (1, 2),
    ), {
        "rotate_degrees": f"rotated by up to {degrees:g} degrees, {'also' if tilted else 'not'} out of plane (3D up to "
        f"anisotropy {ISOTROPIC_LIMIT:g}; this grid: {ratio:.2g})",
        "low_resolution_probability": OFF,
        "low_resolution_axes": "along slices, which simulates thicker ones"
        if is_3d
        else "in-plane: the patch has one slice or few",
        "stretch_probability": f"like shear and lens distortion {OFF}"
        if is_image
        else "off, like shear and lens distortion: scanners do not distort volumes as a lens does",
        "colour_probability": OFF,
    }


def tta_axes(mirrored: tuple[NetworkAxis, ...], head: Head = "unet") -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the axes mirrored at prediction: those of training, each doubling the time; none for a classifier."""
    if head != "unet":
        return (), "a classifier is fitted to images that are not mirrored; features of mirrored ones differ"
    return mirrored, f"the axes mirrored in training: {2 ** len(mirrored)} pass(es)"
