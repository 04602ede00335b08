"""The decoder's building blocks, in 2D and 3D.

They are laid out for a CPU in bfloat16 and channels_last, where one pass over a full-resolution map costs as much as a
narrow convolution. Figures are CPU milliseconds on one core with AMX, forward and backward, for a batch of 4 maps of 16
channels and 40x56x40 voxels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["instance", "group"]
FEWEST_FOR_INSTANCE_NORM = 16
GROUP = 16


def convolution(
    inputs: int, outputs: int, *, is_3d: bool, size: int, has_depth: bool = True, bias: bool = True
) -> nn.Module:
    """Convolution that keeps the map's size; in 3D with depth 1 where kernels do not reach along the slice axis."""
    if not is_3d:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    depth = size if has_depth else 1
    padding = (depth // 2, size // 2, size // 2)
    return nn.Conv3d(inputs, outputs, (depth, size, size), padding=padding, bias=bias)


class InstanceNorm(nn.Module):
    """Instance norm with weight and bias, for 2D and 3D maps of more than one voxel.

    On a CPU it normalizes one sample after the other: torch's own leaves channels_last, and takes 37 ms plus 80 ms for
    the way back into it where this takes 27 ms.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return functional.instance_norm(x, weight=self.weight, bias=self.bias)
        samples = [
            functional.batch_norm(sample, None, None, self.weight, self.bias, training=True) for sample in x.split(1)
        ]
        return torch.cat(samples)


def normalization(channels: int, kind: Norm, *, voxels: int) -> nn.Module:
    """Norm without batch statistics; a map of few voxels has no instance statistics and gets group norm.

    Groups have 16 channels where the width allows: 20 ms, against 36 ms with 8 and 96 ms with 2.
    """
    if kind == "group" or voxels < FEWEST_FOR_INSTANCE_NORM:
        return nn.GroupNorm(channels // math.gcd(channels, GROUP), channels)
    return InstanceNorm(channels)


class ConvNormAct(nn.Sequential):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, is_3d: bool, has_depth: bool, norm: Norm, voxels: int) -> None:
        super().__init__(
            convolution(inputs, outputs, is_3d=is_3d, size=3, has_depth=has_depth, bias=False),
            normalization(outputs, norm, voxels=voxels),
            nn.LeakyReLU(0.01, inplace=True),
        )


class Enlarge(nn.Module):
    """Bring a coarse map to another map's channels and size.

    Channels are reduced before enlarging, when there are four (2D) or eight (3D) times fewer voxels to compute. Linear
    interpolation (19 ms) costs what a transposed convolution costs (21 ms) and leaves no checkerboard.
    """

    def __init__(self, inputs: int, outputs: int, *, is_3d: bool) -> None:
        super().__init__()
        self.reduce = convolution(inputs, outputs, is_3d=is_3d, size=1)
        self.mode = "trilinear" if is_3d else "bilinear"

    def forward(self, coarse: Tensor, like: Tensor) -> Tensor:
        return functional.interpolate(self.reduce(coarse), size=like.shape[2:], mode=self.mode)


class UpBlock(nn.Module):
    """Decoder block: the enlarged coarse map beside a skip from the encoder, fused by a convolution.

    Args:
        coarse: Channels of the coarse map.
        skip: Channels of the skip.
        outputs: Channels of the result.
    """

    def __init__(
        self, coarse: int, skip: int, outputs: int, *, is_3d: bool, has_depth: bool, norm: Norm, voxels: int
    ) -> None:
        super().__init__()
        self.enlarge = Enlarge(coarse, outputs, is_3d=is_3d)
        self.fuse = ConvNormAct(outputs + skip, outputs, is_3d=is_3d, has_depth=has_depth, norm=norm, voxels=voxels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.enlarge(coarse, skip), skip], dim=1))


class FullResolutionBlock(nn.Module):
    """Last decoder block: the enlarged coarse map plus features of the raw input, then one convolution.

    Sum instead of concatenation, and no norm before it: 117 ms with the head, against 263 ms.

    Args:
        coarse: Channels of the coarse map.
        raw: Channels of the raw input.
        outputs: Channels of the result.
    """

    def __init__(
        self, coarse: int, raw: int, outputs: int, *, is_3d: bool, has_depth: bool, norm: Norm, voxels: int
    ) -> None:
        super().__init__()
        self.enlarge = Enlarge(coarse, outputs, is_3d=is_3d)
        self.stem = convolution(raw, outputs, is_3d=is_3d, size=3, has_depth=has_depth)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.fuse = ConvNormAct(outputs, outputs, is_3d=is_3d, has_depth=has_depth, norm=norm, voxels=voxels)

    def forward(self, coarse: Tensor, raw: Tensor) -> Tensor:
        return self.fuse(self.act(self.stem(raw) + self.enlarge(coarse, raw)))
