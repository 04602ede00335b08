"""The decoder's building blocks, in 2D and 3D.

They are designed for a CPU in bfloat16 and channels_last, where one pass over a full-resolution map costs as much as a
narrow convolution. Figures are milliseconds on one CPU core with AMX, forward and backward, for a batch of 4 maps of 16
channels and 40x56x40 voxels (``bench/parts.py``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from seg_transfer.preprocessing.extent import POSITION_MAPS
from seg_transfer.transfer.stages import pad_to_multiple

MIN_INSTANCE_VOXELS = 16
GROUP_CHANNELS = 16
POSITION_FEATURES = 16
POSITION_SLOPE = 2.0
"""Standard deviation of the slopes along the axes, over which positions go from -1 to 1."""


def convolution(
    inputs: int, outputs: int, *, is_3d: bool, size: int, has_depth: bool = True, bias: bool = True
) -> nn.Module:
    """Convolution that keeps the map's size; without depth its 3D kernel spans one slice."""
    if not is_3d:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    depth = size if has_depth else 1
    padding = (depth // 2, size // 2, size // 2)
    return nn.Conv3d(inputs, outputs, (depth, size, size), padding=padding, bias=bias)


class InstanceNorm(nn.Module):
    """Instance norm with weight and bias, for 2D and 3D maps of more than one voxel.

    On a CPU it normalizes sample by sample (26 ms): torch's own leaves channels_last, and takes 44 ms with the
    conversion back. Exported graphs use torch's own, since their batch size is not fixed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return functional.instance_norm(x, weight=self.weight, bias=self.bias)
        samples = [
            functional.batch_norm(sample, None, None, self.weight, self.bias, training=True) for sample in x.split(1)
        ]
        return torch.cat(samples)


def normalization(channels: int, *, voxels: int) -> nn.Module:
    """Norm without batch statistics, for small batches: instance norm, as in nnU-Net, or group norm on few voxels.

    Groups have 16 channels where the width allows: 21 ms, against 39 ms with 8 and 96 ms with 2.
    """
    if voxels < MIN_INSTANCE_VOXELS:
        return nn.GroupNorm(channels // math.gcd(channels, GROUP_CHANNELS), channels)
    return InstanceNorm(channels)


class ConvNormAct(nn.Sequential):
    """Convolution, norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, is_3d: bool, has_depth: bool, voxels: int) -> None:
        super().__init__(
            convolution(inputs, outputs, is_3d=is_3d, size=3, has_depth=has_depth, bias=False),
            normalization(outputs, voxels=voxels),
            nn.LeakyReLU(0.01, inplace=True),
        )

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """The result for a map ``x``; ``shift`` is added after the norm, which would remove its mean."""
        convolution, norm, activation = self
        x = norm(convolution(x))
        return activation(x if shift is None else x + shift)


class PositionShift(nn.Module):
    """Shifts of a decoder block's two normalized maps, as a function of position; zero at first.

    Position maps as further channels of a convolution would lose what they are there for: the norm after it removes
    their mean over the patch.

    Args:
        outputs: Channels of the block.
        is_3d: Whether maps have a slice axis.
    """

    def __init__(self, outputs: int, *, is_3d: bool) -> None:
        super().__init__()
        self.features = convolution(POSITION_MAPS, POSITION_FEATURES, is_3d=is_3d, size=1)
        self.shifts = convolution(POSITION_FEATURES, 2 * outputs, is_3d=is_3d, size=1)

    def initialise(self) -> None:
        """Set random features, and shifts of zero."""
        for name, parameter in self.named_parameters():
            if name == "features.weight":
                nn.init.normal_(parameter, std=POSITION_SLOPE)
            elif name == "features.bias":
                nn.init.uniform_(parameter, -1, 1)
            else:
                nn.init.zeros_(parameter)

    def forward(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts ``(batch, outputs, *sizes)`` of both; zero where ``position``, ``(batch, 4, *sizes)``, is unknown."""
        shifts = self.shifts(functional.relu(self.features(position))) * position[:, -1:]
        first, second = shifts.chunk(2, dim=1)
        return first, second


class DecoderBlock(nn.Module):
    """One decoder stage: two convolutions on the upsampled coarser stage, concatenated with the maps of this stage.

    Linear upsampling takes 19 ms and a transposed convolution 23 ms, which leaves checkerboard artefacts.

    Args:
        inputs: Channels of all maps together.
        outputs: Channels of the result.
        is_3d: Whether maps have a slice axis.
        has_depth: Whether 3D kernels reach along the slice axis.
        voxels: Voxels of a map of the planned patch, which decide on the norm.
        position: Whether the block reads position maps.
    """

    def __init__(
        self, inputs: int, outputs: int, *, is_3d: bool, has_depth: bool, voxels: int, position: bool = False
    ) -> None:
        super().__init__()
        self.mode = "trilinear" if is_3d else "bilinear"
        self.fuse = ConvNormAct(inputs, outputs, is_3d=is_3d, has_depth=has_depth, voxels=voxels)
        self.refine = ConvNormAct(outputs, outputs, is_3d=is_3d, has_depth=has_depth, voxels=voxels)
        self.shift = PositionShift(outputs, is_3d=is_3d) if position else None

    def forward(self, coarse: Tensor | None, maps: list[Tensor], position: Tensor | None = None) -> Tensor:
        if coarse is not None:
            maps = [functional.interpolate(coarse, size=maps[0].shape[2:], mode=self.mode), *maps]
        joined = torch.cat(maps, dim=1)
        if self.shift is None:
            return self.refine(self.fuse(joined))
        assert position is not None, "a block with shifts is given position maps"
        first, second = self.shift(position)
        return self.refine(self.fuse(joined, first), second)


def space_to_depth(x: Tensor, block: Sequence[int]) -> Tensor:
    """Move blocks of voxels into channels: ``(batch, channel, *sizes)`` to ``(batch, channel * voxels, *coarse)``.

    Sizes are padded to whole blocks by repeating the edge, so that a coarse size is ``ceil(size / block)``.
    """
    x = pad_to_multiple(x, block)
    batch, channels, *sizes = x.shape
    rank = len(sizes)
    split = [part for size, step in zip(sizes, block, strict=True) for part in (size // step, step)]
    x = x.reshape(batch, channels, *split)
    x = x.permute(0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2))
    return x.reshape(batch, -1, *(size // step for size, step in zip(sizes, block, strict=True)))


def depth_to_space(x: Tensor, block: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Inverse of :func:`space_to_depth`: ``(batch, channel * voxels, *coarse)`` to ``(batch, channel, *sizes)``."""
    batch, channels, *coarse = x.shape
    rank = len(coarse)
    x = x.reshape(batch, channels // math.prod(block), *block, *coarse)
    order = [axis for index in range(rank) for axis in (2 + rank + index, 2 + index)]
    x = x.permute(0, 1, *order).reshape(
        batch, channels // math.prod(block), *(size * step for size, step in zip(coarse, block, strict=True))
    )
    for axis, size in enumerate(sizes, start=2):
        x = x.narrow(axis, 0, size)
    return x
