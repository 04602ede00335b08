"""Whether the network reads single slices, stacks of slices or volumes."""

from __future__ import annotations

from seg_transfer.options.choices import Configuration
from seg_transfer.planning.cost import DeviceKind
from seg_transfer.planning.rules.spacing import ANISOTROPY_LIMIT

FEWEST_SLICES = 8
"""Volumes of fewer slices are hardly deeper than a 2.5D stack: 3D kernels would see mostly padding."""
LEAST_COVERED = 0.2
"""Share of a slice that a 3D patch has to cover on a CPU, or else the time has to be plenty (``bench/encoders.py``,
docs/log.md, 2026-11-30)."""
FEWEST_STEPS = 600
"""nnU-Net's reference run on hippocampus reaches most of its final Dice within two epochs of 250 steps; fewer than
about 600 steps are too few in any configuration."""


def configuration(
    *,
    dimension: int,
    ratio: float,
    slices: float,
    volumes: bool,
    covered: float,
    steps_3d: float,
    device: DeviceKind,
    requested: Configuration | None = None,
) -> tuple[Configuration, str]:
    """Choose the configuration.

    Args:
        dimension: 2 for 2D images.
        ratio: Anisotropy of the network's grid.
        slices: Median number of slices on it.
        volumes: Whether the encoder converts to 3D.
        covered: Share of the median slice in the largest 3D patch for which a step has time on this device.
        steps_3d: Training steps in 3D, with the smallest batch and the largest patch, that fit into the time budget on
            this device.
        device: Time is a limit only on a CPU.
        requested: The user's choice, if any.
    """
    if requested is not None:
        return requested, "requested"
    if dimension == 2:
        return "2d", "2D images have a single slice"
    if not volumes:
        return "2.5d", "the encoder does not convert to 3D"
    if slices < FEWEST_SLICES:
        return "2.5d", f"{slices:g} slices in the median case are too few for 3D (at least {FEWEST_SLICES})"
    if device != "cpu":
        return "3d", f"{slices:g} slices in the median case, and a GPU"
    least = f"at least {LEAST_COVERED:.0%} in the time that a step has on a CPU"
    if covered >= LEAST_COVERED:
        return "3d", (
            f"a patch covers {covered:.0%} of the median slice; {least}, and the median case has {slices:g} slices"
        )
    short = f"a 3D patch would cover {covered:.0%} of the median slice; {least}"
    if ratio > ANISOTROPY_LIMIT:
        return "2.5d", (
            f"{short}, and slices are {ratio:.2g} times as far apart as pixels (limit {ANISOTROPY_LIMIT:g}): "
            "neighbouring slices as channels give most of the context in a fraction of the time"
        )
    if steps_3d < FEWEST_STEPS:
        return "2.5d", (
            f"{short}, and larger ones would get about {steps_3d:.0f} steps in the budget (at least {FEWEST_STEPS})"
        )
    return "3d", (
        f"there is time for 3D; about {steps_3d:.0f} steps of the largest patch fit into the budget on a CPU (at least "
        f"{FEWEST_STEPS}), anisotropy {ratio:.2g} (limit {ANISOTROPY_LIMIT:g})"
    )
