"""How training patches are varied, and which mirror images count as the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from seg_transfer.planning.cost import Configuration, DeviceKind
from seg_transfer.planning.plan import Augmentation, Triple

NetworkAxis = Literal[0, 1, 2]

FEW_CASES = 30
ISOTROPIC_LIMIT = 1.5
DIRECTIONS = {"left": 0, "right": 0, "anterior": 1, "posterior": 1, "superior": 2, "inferior": 2}
"""Word in a label's name -> canonical axis along which a mirror image would carry the wrong name."""
SHORT_SIDES = ({"l", "r"}, {"lt", "rt"}, {"lh", "rh"})
"""Abbreviations of left and right; only a pair of them counts."""
CPU_TTA_AXES = 2


def mirror_axes(
    labels: Sequence[str], axes: Triple, configuration: Configuration
) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the network axes along which mirroring keeps every label's name true.

    Args:
        labels: Names, background left out.
        axes: Canonical axis of slice, u and v.
        configuration: 2D reads a single slice, which has no mirror image along the slice axis.
    """
    forbidden: dict[int, list[str]] = {}
    words = {label: set(re.split(r"[^a-z0-9]+", label.lower())) for label in labels}
    every = set().union(*words.values())
    for label, parts in words.items():
        sided = any(pair <= every and pair & parts for pair in SHORT_SIDES)
        for axis in {DIRECTIONS[word] for word in parts & DIRECTIONS.keys()} | ({0} if sided else set()):
            forbidden.setdefault(axis, []).append(label)
    candidates: tuple[NetworkAxis, ...] = (1, 2) if configuration == "2d" else (0, 1, 2)
    allowed = tuple(axis for axis in candidates if axes[axis] not in forbidden)
    names = [("slice", "u", "v")[axis] for axis in allowed]
    reason = f"mirrored along {', '.join(names) or 'no axis'}"
    for axis, named in sorted(forbidden.items()):
        reason += f"; not along {'xyz'[axis]}, which would swap what {', '.join(named)} mean"
    return allowed, reason


def augmentation(
    cases: int, ratio: float, configuration: Configuration, unit: str, mirrored: tuple[NetworkAxis, ...]
) -> tuple[Augmentation, str]:
    """Choose how strongly patches are varied; the ranges are nnU-Net's, the probabilities rise with few cases.

    Args:
        cases: Labelled cases that a fold trains on.
        ratio: Anisotropy of the network's grid.
        configuration: 2D, 2.5D or 3D.
        unit: Pictures in pixels have no upright: they turn by any angle.
        mirrored: Axes of :func:`mirror_axes`.
    """
    few = cases < FEW_CASES
    tilted = configuration == "3d" and ratio <= ISOTROPIC_LIMIT
    degrees = 180.0 if unit == "pixel" else 30.0
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
        f"out of plane (3D, slices at most {ISOTROPIC_LIMIT:g} times as far apart as voxels in-plane: {ratio:.2g} here)"
    )


def tta_axes(mirrored: tuple[NetworkAxis, ...], device: DeviceKind) -> tuple[tuple[NetworkAxis, ...], str]:
    """Choose the axes mirrored at prediction: those of training; each doubles the time, so in-plane ones on a CPU."""
    if device == "cpu" and len(mirrored) > CPU_TTA_AXES:
        chosen = mirrored[-CPU_TTA_AXES:]
        return chosen, f"the last {CPU_TTA_AXES} mirrored axes: {2 ** len(chosen)} passes, a third would double them"
    return mirrored, f"the axes mirrored in training: {2 ** len(mirrored)} passes"
