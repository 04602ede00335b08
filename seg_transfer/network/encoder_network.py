"""The part that all networks share: input scaling and encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.describe import describe
from seg_transfer.transfer.encoder import Encoder


class EncoderNetwork(nn.Module):
    """Base of networks on the plan's encoder.

    Args:
        model: The plan's model.
        channels: Image channels.

    Attributes:
        encoder: The encoder.
        is_3d: Whether its maps have a slice axis.
        channels: Image channels; position maps may follow them in the input.
        block: Stride (slice, u, v) of stage 0; (u, v) in 2D and 2.5D.
        input_channels: Channels that the encoder reads: in 2.5D image channels times slices.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: ModelPlan, *, channels: int) -> None:
        super().__init__()
        self.is_3d = is_3d = model.configuration == "3d"
        self.channels = channels
        slices = 1 if is_3d else model.patch[0]
        self.input_channels = channels * slices
        self.encoder = Encoder(
            model.encoder,
            channels=self.input_channels,
            slices=slices,
            stages=model.stages,
            slice_strides=model.slice_strides if is_3d else None,
            inflation=model.inflation,
        )
        self.block = self.encoder.strides[0] if is_3d else self.encoder.strides[0][1:]
        mean, std = _input_scaling(model, channels)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def scaled(self, x: Tensor) -> Tensor:
        """The image with the mean and std that the encoder was trained with, in channels_last."""
        x = x[:, : self.channels]
        # clone, not contiguous: a one-channel tensor counts as channels_last already and would lose the format
        return ((x - self.mean) / self.std).clone(memory_format=torch.channels_last_3d)


def _input_scaling(model: ModelPlan, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and std ``(1, channel, 1, 1, 1)`` of the encoder's training images; without RGB, their mean per channel."""
    encoder = describe(model.encoder)
    mean, std = torch.tensor(encoder.mean), torch.tensor(encoder.std)
    if model.input_mapping == "as_is":
        mean, std = torch.zeros(channels), torch.ones(channels)
    elif channels != 3:
        mean, std = mean.mean().repeat(channels), std.mean().repeat(channels)
    return mean.view(1, -1, 1, 1, 1), std.view(1, -1, 1, 1, 1)
