"""Where in the input the voxels of an encoder's maps are centred."""

from __future__ import annotations

import numpy as np
from torch import nn

from seg_transfer.transfer.encoder import Encoder

Offset = tuple[float, float, float]


def map_centres(encoder: Encoder) -> list[Offset]:
    """Where in the input ``(slice, u, v)`` the first voxel of each stage's map is centred.

    Odd kernels are centred on their voxel (``transfer/stages.py``); even ones are as wide as their stride and begin at
    it, so that they lie ``(kernel - 1) / 2`` of their input's voxels further.
    """
    found: list[Offset] = []
    centre, before = np.zeros(3), np.ones(3)
    for stage, strides in zip(encoder.stage_modules(), encoder.strides, strict=True):
        shifts = [_shift(module) for module in stage.modules()]
        centre = centre + before * np.max(shifts, axis=0)  # branches of one stage stride alike
        before = np.array(strides)
        found.append((float(centre[0]), float(centre[1]), float(centre[2])))
    return found


def _shift(module: nn.Module) -> list[float]:
    """By how many voxels of its input ``(slice, u, v)`` a module's first result lies behind the first voxel."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.MaxPool2d | nn.MaxPool3d | nn.AvgPool2d | nn.AvgPool3d):
        return [0.0] * 3
    rank = 3 if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d) else 2
    kernel, stride = (
        value if isinstance(value, tuple) else (value,) * rank for value in (module.kernel_size, module.stride)
    )
    shifts = [(k - 1) / 2 if k % 2 == 0 and s > 1 else 0.0 for k, s in zip(kernel, stride, strict=True)]
    return [0.0] * (3 - rank) + shifts
