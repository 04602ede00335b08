"""Where the windows of a sliding window lie; no torch.

Windows have the patch's size, at which the decoder's instance norms were trained, and overlap by one half. Their
probabilities are weighted by a Gaussian with sigma 1/8 of the patch (nnU-Net: Isensee et al., Nature Methods 2021).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan

OVERLAP = 0.5
SIGMA = 1 / 8


def longest_axis(shape: Sequence[int], models: Sequence[ModelPlan]) -> int:
    """The axis of ``(slice, u, v)`` along which a volume has the most windows' lengths; ties go to the first.

    For several models the lengths of their windows are added, since each holds the slices of its windows.
    """
    return max(range(3), key=lambda axis: shape[axis] / sum(written_shape(model)[axis] for model in models))


def window_starts(size: int, window: int) -> list[int]:
    """First voxels of windows that cover an axis evenly and overlap by at least one half.

    Args:
        size: Voxels along the axis; if fewer than the window's, one window has the volume in its middle.
        window: Voxels of a window; windows of one slice do not overlap.
    """
    if size < window:
        return [-((window - size) // 2)]
    steps = math.ceil((size - window) / max(1, int(window * (1 - OVERLAP))))
    return [round(step * (size - window) / max(1, steps)) for step in range(steps + 1)]


def written_shape(model: ModelPlan) -> Triple:
    """Size ``(slice, u, v)`` of the network's output for one patch."""
    return model.patch if model.configuration == "3d" else (1, model.patch[1], model.patch[2])


def group_windows(starts: Sequence[Sequence[int]], axis: int, batch: int) -> list[list[Triple]]:
    """Corners of the windows, ascending along the axis, grouped by call of the network."""
    corners = sorted(((s, u, v) for s, u, v in itertools.product(*starts)), key=lambda corner: corner[axis])
    return [corners[first : first + batch] for first in range(0, len(corners), batch)]
