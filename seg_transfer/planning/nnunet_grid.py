"""Turns nnU-Net's plans into segtl's terms.

nnU-Net reads a file's array as (k, j, i), the last file axis first, and puts the axis of the coarsest spacing first
(``transpose_forward``). segtl names axes by the canonical axis (x, y, z) that a file's axis runs along. So
nnU-Net's order depends on how the files' axes run, which the fingerprint knows.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import cast

import numpy as np

from seg_transfer.data.nnunet import Intensities, NnunetPlans
from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.given_grid import GivenGrid
from seg_transfer.planning.rules.spacing import AXIS_NAMES, rounded_step

logger = logging.getLogger(__name__)

SOURCE = "from nnU-Net's plans"
CANONICAL = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
"""Canonical axis of a direction."""
SPACING_TOLERANCE = 0.02
RGB_LARGEST = 255.0


def nnunet_grid(plans: NnunetPlans, fingerprint: Fingerprint) -> GivenGrid:
    """Grid, patch and normalization of nnU-Net's plans for a data set.

    Args:
        plans: nnU-Net's plans.
        fingerprint: Measurements of the data set that they are for.

    Raises:
        UserError: If the plans cut single slices along another axis than these.
    """
    chosen = plans.configuration
    axes = _axes(plans, fingerprint)
    if fingerprint.dimension == 2 and fingerprint.shape[axes[0]] != 1:
        what = f"nnU-Net cuts slices along {AXIS_NAMES[axes[0]]}, but the images are single slices along another axis"
        raise UserError(what, where=plans.path, hint="plan with `segtl plan`")
    _compare_spacing(plans, fingerprint, axes)
    flat = len(chosen.spacing) == 2
    slice_step, u, v = (fingerprint.spacing[axes[0]], *chosen.spacing) if flat else chosen.spacing
    why_spacing = f"{SOURCE} ({chosen.name})"
    if flat and fingerprint.dimension == 3:
        why_spacing += "; along slices the median of the cases, where nnU-Net's 2D leaves slices as they are"
    names = "".join(f" {AXIS_NAMES[axis].partition(' ')[0]}" for axis in axes).strip()
    return GivenGrid(
        configuration=("2d" if flat else "3d", f"{SOURCE}: {chosen.name}"),
        axes=(axes, f"{SOURCE}; transpose_forward {list(plans.transpose)} of the files' axes is {names}"),
        spacing=((rounded_step(slice_step), rounded_step(u), rounded_step(v)), why_spacing),
        patch=(cast(Triple, (1, *chosen.patch_size) if flat else chosen.patch_size), SOURCE),
        crop_nonzero=(True, "as nnU-Net, which always crops to nonzero"),
        normalization=tuple(
            _normalization(scheme, mask, figures)
            for scheme, mask, figures in zip(
                chosen.normalization_schemes, chosen.use_mask_for_norm, plans.intensities, strict=True
            )
        ),
    )


def _axes(plans: NnunetPlans, fingerprint: Fingerprint) -> Triple:
    """The canonical axes of nnU-Net's transposed order."""
    orders = Counter(
        (0, 1, 2) if plans.reoriented else tuple(CANONICAL[letter] for letter in case.orientation)
        for case in fingerprint.cases
    )
    (files, count), *others = orders.most_common()
    if others:
        logger.warning(
            f"the axes of the files run differently: {count} of {len(fingerprint.cases)} cases decide how nnU-Net's "
            "plans are read. nnU-Net trains on the axes as they are, segtl turns all images to the same ones"
        )
    array = files[::-1]
    first, second, third = (array[position] for position in plans.transpose)
    return first, second, third


def _compare_spacing(plans: NnunetPlans, fingerprint: Fingerprint, axes: Triple) -> None:
    """Warn where the images have another median spacing than those that nnU-Net planned for."""
    # nnU-Net gives the slice axis of 2D images a spacing of its own invention.
    first = 1 if fingerprint.dimension == 2 else 0
    if plans.median_spacing is None:
        return
    planned = plans.median_spacing[first:]
    found = [fingerprint.spacing[axis] for axis in axes[first:]]
    if not np.allclose(planned, found, rtol=SPACING_TOLERANCE):
        here, there = (" x ".join(f"{step:.4g}" for step in steps) for steps in (found, planned))
        logger.warning(
            f"the images' median spacing is {here}, in nnU-Net's plans {there}: are both of the same data set?"
        )


def _normalization(scheme: str, mask: bool, figures: Intensities | None) -> tuple[Normalization | None, str]:
    """A channel's normalization with the same effect; None where segtl has none or figures are missing."""
    if scheme == "ZScoreNormalization":
        why = f"{SOURCE}: {scheme}" + (" inside the nonzero mask" if mask else "")
        return Normalization(kind="zscore", mask=mask), why
    if scheme == "NoNormalization":
        return Normalization(kind="none"), f"{SOURCE}: {scheme}"
    if scheme == "RGBTo01Normalization":
        return Normalization(kind="minmax", lower=0.0, upper=RGB_LARGEST), f"{SOURCE}: {scheme}"
    if scheme == "CTNormalization" and figures is not None and figures.percentile_00_5 < figures.percentile_99_5:
        rule = Normalization(
            kind="clip_zscore",
            lower=figures.percentile_00_5,
            upper=figures.percentile_99_5,
            mean=figures.mean,
            std=max(figures.std, 1e-8),
        )
        return rule, f"{SOURCE}: {scheme} with its figures"
    missing = "its figures are missing" if scheme == "CTNormalization" else "segtl has no such normalization"
    return None, f"not {SOURCE}: {scheme[:60]}, {missing}"
