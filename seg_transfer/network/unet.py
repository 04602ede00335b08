"""The U-Net: an ImageNet encoder with a decoder block at each stage, and sub-pixel input and output at stage 0.

ImageNet encoders start at stride 2 or 4. There are no convolutions at full resolution: the raw input enters stage 0 as
blocks of voxels in channels, and the head predicts all voxels of a block at once (sub-pixel convolution, Shi et al.,
CVPR 2016), so every voxel reaches every logit of its block. A decoder block of 16 channels at full resolution took most
of a step's time and reached a lower Dice after the same number of steps (docs/log.md, 2026-11-22).
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from seg_transfer.network.blocks import ConvNormAct, DecoderBlock, convolution, depth_to_space, space_to_depth
from seg_transfer.network.encoder_network import EncoderNetwork
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.inflate import stages_with_depth


class UNet(EncoderNetwork):
    """Segmentation network of a plan: ``(batch, channel, slice, u, v)`` in, logits ``(batch, class, slice, u, v)`` out.

    In 2D and 2.5D the output is the middle slice of the input; in 3D it has all slices. Any input size works; the
    plan's patch decides the norms. If the plan has positions, their maps are the input's last channels.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Number of outputs: classes with the background, or regions.

    Attributes:
        raw: Convolution on blocks of the raw input.
        blocks: One decoder block per stage, finest first.
        heads: One head per decoder block. The first predicts at full resolution, the others at their stage's, for deep
            supervision; they exist without it too, so that checkpoints fit both.
    """

    def __init__(self, model: ModelPlan, *, channels: int, classes: int) -> None:
        super().__init__(model, channels=channels)
        is_3d, self.positioned = self.is_3d, model.position
        depth = stages_with_depth(model.slice_strides) if is_3d else (False,) * model.stages
        widths = model.decoder_channels
        self.raw = ConvNormAct(
            self.input_channels * math.prod(self.block),
            widths[0],
            is_3d=is_3d,
            has_depth=depth[0],
            voxels=self._voxels(model, 0),
        )
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        for stage, width in enumerate(widths):
            coarse = widths[stage + 1] if stage + 1 < len(widths) else 0
            inputs = coarse + self.encoder.channels[stage] + (widths[0] if stage == 0 else 0)
            voxels = self._voxels(model, stage)
            self.blocks.append(
                DecoderBlock(inputs, width, is_3d=is_3d, has_depth=depth[stage], voxels=voxels, position=model.position)
            )
            outputs = classes * (math.prod(self.block) if stage == 0 else 1)
            size = 3 if stage == 0 else 1
            self.heads.append(convolution(width, outputs, is_3d=is_3d, size=size, has_depth=depth[stage]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, class, slice, u, v)`` at full resolution."""
        return self._logits(0, self._decode(x)[0], x)

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Logits of every decoder block, finest first, for deep supervision; the first as in :meth:`forward`."""
        return [self._logits(stage, decoded, x) for stage, decoded in enumerate(self._decode(x))]

    def _decode(self, x: Tensor) -> list[Tensor]:
        position = x[:, self.channels :] if self.is_3d else x[:, self.channels :, x.shape[2] // 2]
        x = self.scaled(x)
        stages = self.encoder(x)
        raw = self.raw(space_to_depth(x if self.is_3d else x.flatten(1, 2), self.block))
        decoded: list[Tensor] = []
        for stage in reversed(range(len(stages))):
            maps = [stages[stage], raw] if stage == 0 else [stages[stage]]
            here = position[self._every(stage)] if self.positioned else None
            decoded.append(self.blocks[stage](decoded[-1] if decoded else None, maps, here))
        return decoded[::-1]

    def _logits(self, stage: int, decoded: Tensor, x: Tensor) -> Tensor:
        logits = self.heads[stage](decoded)
        if stage == 0:
            logits = depth_to_space(logits, self.block, x.shape[2:] if self.is_3d else x.shape[3:])
        return logits if self.is_3d else logits.unsqueeze(2)

    def _every(self, stage: int) -> tuple[slice, ...]:
        """Index of the voxels that a stage's map voxels are centred on, in ``(batch, channel, *sizes)``."""
        strides = self.encoder.strides[stage] if self.is_3d else self.encoder.strides[stage][1:]
        return (slice(None), slice(None), *(slice(None, None, stride) for stride in strides))

    def _voxels(self, model: ModelPlan, stage: int) -> int:
        """Voxels of the planned patch at a stage."""
        sizes = zip(model.patch, self.encoder.strides[stage], strict=True)
        slices, *plane = (math.ceil(size / stride) for size, stride in sizes)
        return math.prod(plane) * (slices if self.is_3d else 1)
