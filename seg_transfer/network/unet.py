"""The U-Net: an ImageNet encoder, a decoder block at each of its levels, and a sub-pixel way in and out of level 0.

ImageNet encoders start at stride 2 or 4. What lies between full resolution and the first level is bridged without
convolutions at full resolution: the raw input enters level 0 as blocks of voxels in channels, and the head predicts all
voxels of a block at once (sub-pixel convolution, Shi et al., CVPR 2016). Every raw voxel still reaches every logit of
its block. A block of 16 channels at full resolution in its place took most of a step's time and reached a lower Dice
after the same number of steps (docs/log.md, 2026-11-22).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seg_transfer.catalogue import entry
from seg_transfer.network.blocks import ConvNormAct, DecoderBlock, convolution, depth_to_space, space_to_depth
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import levels_with_depth


class UNet(nn.Module):
    """Segmentation network of a plan: ``(batch, channel, slice, u, v)`` in, logits ``(batch, class, slice, u, v)`` out.

    In 2D and 2.5D the output has one slice, the middle one of the input; in 3D as many as the input. Any size works;
    the patch of the plan only decides which norm a map's size allows.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Outputs: classes, background included, or regions.

    Attributes:
        encoder: The pyramid.
        heads: One head per decoder block, finest first: the first predicts full resolution, the others their own
            level's, for deep supervision. They exist whether it is on or off, so that a checkpoint fits both.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ModelPlan, *, channels: int, classes: int) -> None:
        super().__init__()
        self.is_3d = is_3d = model.configuration == "3d"
        folded = channels if is_3d else channels * model.patch[0]
        self.encoder = Encoder(
            model.encoder,
            channels=folded,
            stages=model.stages,
            slice_strides=model.slice_strides if is_3d else None,
            inflation=model.inflation,
        )
        mean, std = _input_scaling(model, channels)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.block = self.encoder.strides[0] if is_3d else self.encoder.strides[0][1:]
        depth = levels_with_depth(model.slice_strides) if is_3d else (False,) * model.stages
        widths, norm = model.decoder_channels, model.decoder_norm
        finest = self._voxels(model, 0)
        self.raw = ConvNormAct(
            folded * math.prod(self.block), widths[0], is_3d=is_3d, has_depth=depth[0], norm=norm, voxels=finest
        )
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            coarse = widths[level + 1] if level + 1 < len(widths) else 0
            inputs = coarse + self.encoder.channels[level] + (widths[0] if level == 0 else 0)
            voxels = self._voxels(model, level)
            self.blocks.append(
                DecoderBlock(inputs, width, is_3d=is_3d, has_depth=depth[level], norm=norm, voxels=voxels)
            )
            outputs = classes * (math.prod(self.block) if level == 0 else 1)
            size = 3 if level == 0 else 1
            self.heads.append(convolution(width, outputs, is_3d=is_3d, size=size, has_depth=depth[level]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, class, slice, u, v)`` at full resolution."""
        return self._logits(0, self._decode(x)[0], x)

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits as :meth:`forward` gives them, then those of every coarser decoder block, for deep supervision."""
        return [self._logits(level, decoded, x) for level, decoded in enumerate(self._decode(x))]

    def scaled(self, x: Tensor) -> Tensor:
        """The input as the encoder reads it: scaled as it was trained, and laid out as convolutions are fastest."""
        # clone, not contiguous: a one-channel tensor counts as channels_last already and would lose the format.
        return ((x - self.mean) / self.std).clone(memory_format=torch.channels_last_3d)

    def _decode(self, x: Tensor) -> list[Tensor]:
        x = self.scaled(x)
        levels = self.encoder(x)
        raw = self.raw(space_to_depth(x if self.is_3d else x.flatten(1, 2), self.block))
        decoded: list[Tensor] = []
        for level in reversed(range(len(levels))):
            maps = [levels[level], raw] if level == 0 else [levels[level]]
            decoded.append(self.blocks[level](decoded[-1] if decoded else None, maps))
        return decoded[::-1]

    def _logits(self, level: int, decoded: Tensor, x: Tensor) -> Tensor:
        logits = self.heads[level](decoded)
        if level == 0:
            logits = depth_to_space(logits, self.block, x.shape[2:] if self.is_3d else x.shape[3:])
        return logits if self.is_3d else logits.unsqueeze(2)

    def _voxels(self, model: ModelPlan, level: int) -> int:
        """Voxels of the planned patch at a level."""
        sizes = zip(model.patch, self.encoder.strides[level], strict=True)
        slices, *plane = (math.ceil(size / stride) for size, stride in sizes)
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
