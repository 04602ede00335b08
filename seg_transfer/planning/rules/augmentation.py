"""Augmentation of training patches, and the axes that are mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seg_transfer.errors import UserError
from seg_transfer.options.choices import Configuration, Head
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import Augmentation
from seg_transfer.planning.sides import keeps_sides, words_of
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.planning.site_parts import SiteChannel

NetworkAxis = Literal[0, 1, 2]

NNUNET_REASON = (
    "nnU-Net's probabilities and ranges (Isensee et al., Nature Methods 2021): on hippocampus with 5 and 20 cases, "
    "weaker and stronger ones gave a lower Dice (docs/log.md, 2026-11-22)"
)
OFF = "off: not measured to help"
STRUCTURE_PROBABILITY = 0.5
FEWEST_LABELS = 2
"""Fewer are left alone: sarcoma, with one label, lost 4 points (docs/log.md, 2026-11-30)."""
DEGREES, ANY_DEGREES = 30.0, 180.0
ISOTROPIC_LIMIT = 1.5
"""Anisotropy up to which a 3D patch is rotated about every axis."""
SIDES = {"left", "right"}
"""Words in a label's name that mirroring from left to right would make wrong."""
SHORT_SIDES = ({"l", "r"}, {"lt", "rt"}, {"lh", "rh"})
"""Abbreviations of left and right; only a pair of them counts."""
LEFT_RIGHT = 0
"""Canonical axis x."""
LETTERS = "xyz"
"""Of the canonical axes."""
BY_HAND = "as requested with --mirror"


def mirror_axes(
    site: SiteFingerprint,
    outputs: Sequence[str],
    axes: Triple,
    configuration: Configuration,
    requested: str,
) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the network axes along which mirrored images are plausible and keep their labels.

    Bodies are nearly symmetric from left to right and in no other direction: on hippocampus, volumes mirrored along
    the slices as well reached a lower Dice in the same time (docs/log.md, 2026-11-22). 2D images have no fixed
    orientation. Neither is mirrored along an axis on which labels keep to a side, by their positions in the cases
    (:func:`seg_transfer.planning.sides.keeps_sides`) or, as a second hint, by their names.

    Args:
        site: Sum of the cases.
        outputs: Names of what the network predicts: labels without background, or regions.
        axes: Canonical axis of slice, u and v.
        configuration: 2D reads a single slice, which cannot be mirrored along the slice axis.
        requested: ``auto``, ``none``, or letters of canonical axes.

    Raises:
        UserError: If an axis is requested that the network does not see.
    """
    if requested == "none":
        return (), BY_HAND
    if requested != "auto":
        return _requested(requested, axes, configuration, site.unit), BY_HAND
    is_image = site.unit == "pixel"
    candidates = (0, 1) if is_image else (LEFT_RIGHT,)
    if not is_image and axes[0] == LEFT_RIGHT and configuration == "2d":
        return (), "left and right lie along the slice axis, of which 2D reads a single slice"
    names = [label.name for label in site.labels]
    sided = _sided([*dict.fromkeys([*names, *outputs])])
    named = f"it would swap the sides that {', '.join(sided)} name" if sided else ""
    against = {axis: named or keeps_sides(site.sides[axis], names) for axis in candidates}
    free = [axis for axis in candidates if not against[axis]]
    reasons = [f"not along {LETTERS[axis]}: {why}" for axis, why in against.items() if why]
    if free:
        why = "2D images have no fixed orientation" if is_image else "bodies are nearly symmetric from left to right"
        along = " and ".join(LETTERS[axis] for axis in free)
        reasons.insert(0, f"no label keeps to a side along {along}; {why}")
    return tuple(sorted(axes.index(axis) for axis in free)), "; ".join(reasons)  # type: ignore[misc]


def _requested(
    letters: str, axes: Triple, configuration: Configuration, unit: Literal["mm", "pixel"]
) -> tuple[NetworkAxis, ...]:
    """Network axes of the letters of canonical axes."""
    chosen = sorted(axes.index(LETTERS.index(letter)) for letter in letters)
    if chosen[0] == 0 and (configuration == "2d" or unit == "pixel"):
        raise UserError(
            f"the network reads a single slice across {LETTERS[axes[0]]}, which cannot be mirrored along it",
            where=f"--mirror {letters}",
            hint="omit this axis, or use --config 2.5d or 3d for volumes",
        )
    return tuple(chosen)  # type: ignore[arg-type]


def _sided(labels: Sequence[str]) -> list[str]:
    """Labels whose names hold a side: ``left_kidney``, ``KidneyLeft``, ``kidney_l`` beside ``kidney_r``."""
    words = {label: words_of(label) for label in labels}
    all_words = set().union(*words.values())
    pairs = [pair for pair in SHORT_SIDES if pair <= all_words]
    return [label for label, parts in words.items() if parts & SIDES or any(pair & parts for pair in pairs)]


def augmentation(
    *,
    ratio: float,
    configuration: Configuration,
    unit: Literal["mm", "pixel"],
    mirrored: tuple[NetworkAxis, ...],
    spread: tuple[float, ...],
    labels: int,
) -> tuple[Augmentation, dict[str, str]]:
    """Choose what depends on the data; probabilities and ranges are the schema's defaults, which are nnU-Net's.

    Of the transforms that nnU-Net lacks, structures are on; stretch, shear, lens distortion and colour, and low
    resolution, are off until a measurement supports them. The plan can be edited.

    Args:
        ratio: Anisotropy of the network's grid.
        configuration: 2D, 2.5D or 3D.
        unit: ``pixel`` for 2D images. Those mirrored both ways are rotated by any angle: half a turn mirrors both.
        mirrored: Axes of :func:`mirror_axes`.
        spread: Of :func:`structure_spread`.
        labels: Labels without background; 0 where regions are predicted, which overlap.

    Returns:
        The augmentation, and field -> reason.
    """
    is_image, is_3d = unit == "pixel", configuration == "3d"
    tilted = is_3d and ratio <= ISOTROPIC_LIMIT
    degrees = ANY_DEGREES if is_image and mirrored == (1, 2) else DEGREES
    return Augmentation(
        rotate_degrees=degrees,
        rotate_out_of_plane=tilted,
        mirror_axes=mirrored,
        low_resolution_axes=(0,) if is_3d else (1, 2),
        structure_probability=STRUCTURE_PROBABILITY if any(spread) and labels >= FEWEST_LABELS else 0.0,
        structure_spread=spread,
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
        "structure_probability": "labels brighter and darker than in the cases gain 1 to 2 points on abdomen MR and "
        f"cells; off with fewer than {FEWEST_LABELS} labels without overlap, since one may differ from what is around "
        "it in intensity alone (sarcoma lost 4 points; docs/log.md, 2026-11-30)",
        "structure_spread": "of each channel: how much labels' means differ between cases, over the spread within one",
        "colour_probability": OFF,
    }


def structure_spread(channels: Sequence[SiteChannel], normalizations: Sequence[Normalization]) -> tuple[float, ...]:
    """How much a label's mean differs between cases in each normalized channel, over the spread within an image.

    It is 0 where nothing can be compared, and at most 1: beyond it, cases hardly have a scale in common.

    Args:
        channels: Measurements of each channel.
        normalizations: What the plan does with each: z-score per image removes differences that others keep.
    """
    spreads = [channel.label_means.spread() for channel in channels]
    return tuple(
        0.0 if spread is None else round(min(spread.zscore if chosen.kind == "zscore" else spread.as_stored, 1), 3)
        for spread, chosen in zip(spreads, normalizations, strict=True)
    )


def tta_axes(mirrored: tuple[NetworkAxis, ...], head: Head = "unet") -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the axes mirrored at prediction: those of training, each doubling the time; none for a classifier."""
    if head != "unet":
        return (), "a classifier is fitted to images that are not mirrored; features of mirrored ones differ"
    return mirrored, f"the axes mirrored in training: {2 ** len(mirrored)} pass(es)"
