"""Positions of an encoder's feature maps in its input."""

from __future__ import annotations

import numpy as np
from torch import nn

from seg_transfer.transfer.encoder import Encoder

Offset = tuple[float, float, float]


def map_centres(encoder: Encoder) -> list[Offset]:
    """Centre of the first voxel of each stage's map, in voxels ``(slice, u, v)`` of the input.

    Odd kernels are centred on their voxel (``transfer/stages.py``). Even ones are as wide as their stride and begin at
    their voxel, which shifts the centre by ``(kernel - 1) / 2`` voxels of their input.
    """
    centres: list[Offset] = []
    centre, input_stride = np.zeros(3), np.ones(3)
    for stage, strides in zip(encoder.stages, encoder.strides, strict=True):
        shifts = [_shift(module) for module in stage.modules()]
        centre = centre + input_stride * np.max(shifts, axis=0)  # all branches of a stage have the same stride
        input_stride = np.array(strides)
        centres.append((float(centre[0]), float(centre[1]), float(centre[2])))
    return centres


def _shift(module: nn.Module) -> list[float]:
    """Centre of a module's first output voxel, in voxels ``(slice, u, v)`` of its input."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.MaxPool2d | nn.MaxPool3d | nn.AvgPool2d | nn.AvgPool3d):
        return [0.0] * 3
    rank = 3 if isinstance(module, nn.Conv3d | nn.MaxPool3d | nn.AvgPool3d) else 2
    kernel, stride = (
        value if isinstance(value, tuple) else (value,) * rank for value in (module.kernel_size, module.stride)
    )
    shifts = [(k - 1) / 2 if k % 2 == 0 and s > 1 else 0.0 for k, s in zip(kernel, stride, strict=True)]
    return [0.0] * (3 - rank) + shifts
