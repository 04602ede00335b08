"""Decisions that another program took for the same data set: grid, patch and normalization."""

from __future__ import annotations

from dataclasses import dataclass

from seg_transfer.options.choices import Configuration
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.fields import Spacing, Triple


@dataclass(frozen=True)
class GivenGrid:
    """Decisions that the planner takes over, each with its reason; sizes are in network order (slice, u, v).

    Attributes:
        configuration: Input of the network.
        axes: Canonical axis that becomes slice, u and v.
        spacing: Of the network's grid.
        patch: Input patch.
        crop_nonzero: Whether the border where every channel is zero is cut away.
        normalization: Per channel. A choice of None is segtl's own; its reason then says why.
    """

    configuration: tuple[Configuration, str]
    axes: tuple[Triple, str]
    spacing: tuple[Spacing, str]
    patch: tuple[Triple, str]
    crop_nonzero: tuple[bool, str]
    normalization: tuple[tuple[Normalization | None, str], ...]
