"""Slice axis, cropping, and the grid of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.planning.site_parts import PerAxis

AXIS_NAMES = ("x (sagittal)", "y (coronal)", "z (axial)")
TIE_TOLERANCE = 0.01
"""Spacings that differ by less are equal: headers store them rounded."""
ANISOTROPY_LIMIT = 3.0
"""Slice spacing over in-plane spacing from which slices count as far apart (nnU-Net)."""
COARSE_PERCENTILE = 10
CROP_LIMIT = 0.95
SMALLEST_SIDE = 32
"""Voxels across a slice that leave four positions at the third stage (stride 8)."""
LARGEST_UPSAMPLING = 2.0
IMAGE_ORDER: tuple[Literal[3], str] = (3, "cubic in-plane, as in nnU-Net: linear interpolation blurs borders")
"""Spline order in-plane, and the reason that the plan gives for it."""


def axes(spacing: Spacing, shape: Sequence[float], *, dimension: int) -> tuple[Triple, str]:
    """Choose which canonical axis becomes slice, u and v.

    The slice axis has the coarsest spacing, ties go to the last canonical axis (so to axial); u and v are the other
    two in descending order, as rows (y) and columns (x) of an image.

    Args:
        spacing: Median spacing, canonical (x, y, z).
        shape: Median shape, canonical (x, y, z).
        dimension: 2 where every case is a single slice, whose axis is then the slice axis.
    """
    if dimension == 2:
        slice_axis = max(axis for axis in range(3) if shape[axis] == min(shape))
        why = "every case is a single slice"
    else:
        coarsest = max(spacing)
        tied = [axis for axis in range(3) if spacing[axis] >= coarsest * (1 - TIE_TOLERANCE)]
        slice_axis = tied[-1]
        why = "the coarsest spacing" if len(tied) == 1 else f"{len(tied)} equally coarse spacings, ties go to the last"
        why += f" (median {' x '.join(f'{step:.4g}' for step in spacing)} in x, y, z)"
    u, v = sorted({0, 1, 2} - {slice_axis}, reverse=True)
    return (slice_axis, u, v), f"slices along {AXIS_NAMES[slice_axis]}: {why}"


def fill_nan(requested: bool) -> tuple[bool, str]:
    """Say what becomes of values that are not finite."""
    if requested:
        return True, "as requested: values that are not finite take the least finite one of their image and channel"
    return False, "images with values that are not finite are refused"


def crop_nonzero(crop_ratio: float) -> tuple[bool, str]:
    """Choose whether the border where every channel is zero is cut away.

    Args:
        crop_ratio: Median share of the voxels that cropping keeps.
    """
    if crop_ratio <= CROP_LIMIT:
        return True, f"cropping to nonzero keeps {crop_ratio:.0%} of the median case (cropped up to {CROP_LIMIT:.0%})"
    return False, f"cropping to nonzero would keep {crop_ratio:.0%} of the median case (cropped up to {CROP_LIMIT:.0%})"


def anisotropy(spacing: Sequence[float]) -> float:
    """Slice spacing over the coarser in-plane spacing, of (slice, u, v)."""
    return spacing[0] / max(spacing[1:])


def target_spacing(
    spacings: PerAxis, shape: tuple[float, float, float], *, dimension: int, unit: str
) -> tuple[Spacing, str]:
    """Choose the spacing of the network's grid.

    The median over the cases along each axis. Where slices are far apart, the median would drop slices of the finer
    cases, and there are few: there it is the 10th percentile along the slice axis, but never finer than in-plane
    (nnU-Net). Slices of fewer than 32 voxels across are resampled to a finer grid, at most twice as fine.

    Args:
        spacings: Of the cases, network order (slice, u, v).
        shape: Median shape of a case (slice, u, v), cropped as planned.
        dimension: 2 where every case is a single slice.
        unit: Of the spacings.
    """
    median_step, u, v = (along.median() for along in spacings)
    slice_step, cases = median_step, spacings[0].size
    choice, more = f"median of {cases} case{'s' if cases > 1 else ''}", ""
    ratio = anisotropy((slice_step, u, v))
    if dimension == 3 and ratio > ANISOTROPY_LIMIT:
        slice_step = max(spacings[0].column().quantile(COARSE_PERCENTILE / 100), u, v)
        if slice_step < median_step * (1 - TIE_TOLERANCE):
            choice += ", finer along slices"
        more += (
            f"; anisotropy (slice over in-plane spacing) {ratio:.2g}, limit {ANISOTROPY_LIMIT:g}: along slices the "
            f"{COARSE_PERCENTILE}th percentile ({slice_step:.4g} {unit}, median {median_step:.4g}), which keeps the "
            "slices of finer cases"
        )
    shorter = min(shape[1:])
    if shorter < SMALLEST_SIDE:
        factor = min(LARGEST_UPSAMPLING, SMALLEST_SIDE / shorter)
        u, v = u / factor, v / factor
        choice += f", in-plane {factor:.3g} times as fine"
        more += f"; the shorter side in-plane has {shorter:g} voxels and an encoder needs {SMALLEST_SIDE}"
    return (rounded_step(slice_step), rounded_step(u), rounded_step(v)), choice + more


def slice_order(ratio: float) -> tuple[Literal[0, 3], str]:
    """Choose the spline order along the slice axis.

    Args:
        ratio: Anisotropy of the median case.
    """
    if ratio > ANISOTROPY_LIMIT:
        return 0, (
            f"anisotropy {ratio:.2g} (limit {ANISOTROPY_LIMIT:g}): nearest slice, because a spline between distant "
            "slices would invent structures"
        )
    return 3, f"anisotropy {ratio:.2g} (limit {ANISOTROPY_LIMIT:g}): cubic"


def rounded_step(step: float) -> float:
    """Seven significant digits, so that a plan's hash does not depend on the last bit of a median."""
    return float(f"{step:.7g}")
