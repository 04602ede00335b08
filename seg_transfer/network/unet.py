"""The U-Net: an ImageNet encoder, a light decoder with a skip at every level, a full-resolution block on the input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seg_transfer.catalogue import entry
from seg_transfer.network.blocks import FullResolutionBlock, UpBlock, convolution
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import levels_with_depth


class UNet(nn.Module):
    """Segmentation network of a plan: ``(batch, channel, slice, u, v)`` in, logits ``(batch, class, slice, u, v)`` out.

    In 2D and 2.5D the output has one slice, the middle one of the input; in 3D as many as the input. Any size works;
    the patch of the plan only decides which norm a map's size allows.

    The decoder has one block per resolution from the input's down to the second deepest level's. ImageNet encoders
    start at stride 2; the block at full resolution therefore fuses features of the raw input.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Classes, background included.

    Attributes:
        encoder: The pyramid.
        heads: One head per decoder block, full resolution first. Those below the first serve deep supervision and
            exist whether it is on or off, so that a checkpoint fits both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ModelPlan, *, channels: int, classes: int) -> None:
        super().__init__()
        self.is_3d = model.configuration == "3d"
        folded = channels if self.is_3d else channels * model.patch[0]
        self.encoder = Encoder(
            model.encoder,
            channels=folded,
            stages=model.stages,
            slice_strides=model.slice_strides if self.is_3d else None,
            inflation=model.inflation,
        )
        mean, std = _input_scaling(model, channels)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        depth = levels_with_depth(model.slice_strides) if self.is_3d else (False,) * model.stages
        widths, skips = model.decoder_channels, (folded, *self.encoder.channels)
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        for index, width in enumerate(widths):
            coarse = widths[index + 1] if index + 1 < len(widths) else self.encoder.channels[-1]
            block = FullResolutionBlock if index == 0 else UpBlock
            self.blocks.append(
                block(
                    coarse,
                    skips[index],
                    width,
                    is_3d=self.is_3d,
                    has_depth=depth[index],
                    norm=model.decoder_norm,
                    voxels=self._voxels(model, index),
                )
            )
            self.heads.append(convolution(width, classes, is_3d=self.is_3d, size=1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits at full resolution."""
        return self._logits(0, self._decode(x)[0])

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every decoder block, full resolution first, for deep supervision."""
        return [self._logits(index, decoded) for index, decoded in enumerate(self._decode(x))]

    def _decode(self, x: Tensor) -> list[Tensor]:
        x = (x - self.mean) / self.std
        # clone, not contiguous: a one-channel tensor counts as channels_last already and would lose the format.
        x = x.clone(memory_format=torch.channels_last_3d)
        levels = self.encoder(x)
        raw = x if self.is_3d else x.flatten(1, 2).clone(memory_format=torch.channels_last)
        skips = [raw, *levels[:-1]]
        decoded, coarse = [], levels[-1]
        for block, skip in zip(reversed(self.blocks), reversed(skips), strict=True):
            coarse = block(coarse, skip)
            decoded.append(coarse)
        return decoded[::-1]

    def _logits(self, index: int, decoded: Tensor) -> Tensor:
        logits = self.heads[index](decoded)
        return logits if self.is_3d else logits.unsqueeze(2)

    def _voxels(self, model: ModelPlan, index: int) -> int:
        """Voxels of the planned patch at a decoder block's resolution."""
        strides = (1, 1, 1) if index == 0 else self.encoder.strides[index - 1]
        slices, *plane = (math.ceil(size / stride) for size, stride in zip(model.patch, strides, strict=True))
        return math.prod(plane) * (slices if self.is_3d else 1)


def _input_scaling(model: ModelPlan, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and std ``(1, channel, 1, 1, 1)`` of the encoder's own input; channels other than RGB get their mean."""
    known = entry(model.encoder)
    mean, std = torch.tensor(known.mean), torch.tensor(known.std)
    if model.input_mapping == "as_is":
        mean, std = torch.zeros(channels), torch.ones(channels)
    elif channels != 3:
        mean, std = mean.mean().repeat(channels), std.mean().repeat(channels)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
