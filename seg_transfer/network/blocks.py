"""The decoder's building blocks, in 2D and 3D."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["instance", "group"]
FEWEST_FOR_INSTANCE_NORM = 16


def convolution(inputs: int, outputs: int, *, is_3d: bool, size: int, has_depth: bool = True) -> nn.Module:
    """Convolution that keeps the map's size; in 3D with depth 1 where kernels do not reach along the slice axis."""
    if not is_3d:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2)
    depth = size if has_depth else 1
    return nn.Conv3d(inputs, outputs, (depth, size, size), padding=(depth // 2, size // 2, size // 2))


def normalization(channels: int, kind: Norm, *, is_3d: bool, voxels: int) -> nn.Module:
    """Norm without batch statistics; a map of few voxels has no instance statistics and gets group norm."""
    if kind == "group" or voxels < FEWEST_FOR_INSTANCE_NORM:
        return nn.GroupNorm(math.gcd(channels, 8), channels)
    return (nn.InstanceNorm3d if is_3d else nn.InstanceNorm2d)(channels, affine=True)


class ConvNormAct(nn.Sequential):
    """Convolution, norm, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, *, is_3d: bool, has_depth: bool, norm: Norm, voxels: int, size: int = 3
    ) -> None:
        super().__init__(
            convolution(inputs, outputs, is_3d=is_3d, size=size, has_depth=has_depth),
            normalization(outputs, norm, is_3d=is_3d, voxels=voxels),
            nn.LeakyReLU(0.01, inplace=True),
        )


class UpBlock(nn.Module):
    """Bring a coarse map to a skip's size and channels, and fuse the two.

    The coarse map's channels are reduced before it is enlarged: four (2D) or eight (3D) times fewer voxels to compute.

    Args:
        coarse: Channels of the coarse map.
        skip: Channels of the skip.
        outputs: Channels of the result.
    """

    def __init__(
        self, coarse: int, skip: int, outputs: int, *, is_3d: bool, has_depth: bool, norm: Norm, voxels: int
    ) -> None:
        super().__init__()
        self.reduce = convolution(coarse, outputs, is_3d=is_3d, size=1)
        self.fuse = ConvNormAct(outputs + skip, outputs, is_3d=is_3d, has_depth=has_depth, norm=norm, voxels=voxels)
        self.mode = "trilinear" if is_3d else "bilinear"

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        enlarged = functional.interpolate(self.reduce(coarse), size=skip.shape[2:], mode=self.mode)
        return self.fuse(torch.cat([enlarged, skip], dim=1))
