"""A classifier of single voxels on the encoder's features, with the interface of a segmentation network.

Softmax and SVM are a :class:`~seg_transfer.network.linear_head.LinearHead`. Gaussian naive Bayes is quadratic, and
squares do not commute with interpolation: the projected features (at most 64, a linear map) are interpolated first and
then squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seg_transfer.network.encoder_network import EncoderNetwork
from seg_transfer.network.linear_head import LinearHead, head_logits
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.centres import map_centres

COMPONENTS = 64
"""Principal components that classifiers use at most."""


class PixelHead(EncoderNetwork):
    """``(batch, channel, slice, u, v)`` in, logits ``(batch, class, slice, u, v)`` out, 1 slice in 2D and 2.5D.

    Logits of an SVM are its decision values. Logits are float32 at any precision of the encoder, and 0 before fitting.
    Naive Bayes holds ``4 * 64`` bytes for every voxel of the input.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Number of classes, background included.

    Attributes:
        weight_K: ``(row, channel)`` of stage K; rows are classes, for naive Bayes projected features.
        bias: ``(row,)``.
        linear, square: Naive Bayes only: ``(class, row)``, of the projected features and of their squares.
        offset: Naive Bayes only: ``(class,)``.
    """

    bias: Tensor
    linear: Tensor
    square: Tensor
    offset: Tensor

    def __init__(self, model: ModelPlan, *, channels: int, classes: int) -> None:
        super().__init__(model, channels=channels)
        self.quadratic = model.head == "bayes"
        self.centres = map_centres(self.encoder)
        rows = min(COMPONENTS, sum(self.encoder.channels)) if self.quadratic else classes
        for stage, width in enumerate(self.encoder.channels):
            self.register_buffer(f"weight_{stage}", torch.zeros(rows, width))
        self.register_buffer("bias", torch.zeros(rows))
        if self.quadratic:
            self.register_buffer("linear", torch.zeros(classes, rows))
            self.register_buffer("square", torch.zeros(classes, rows))
            self.register_buffer("offset", torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, class, slice, u, v)`` float32 at full resolution."""
        maps = self.encoder(self.scaled(x))
        sizes = x.shape[2:] if self.is_3d else (1, *x.shape[3:])
        device = "cpu" if x.is_meta else x.device.type  # autocast knows no tensors without data
        with torch.autocast(device, enabled=False):
            head = LinearHead({stage: self.get_buffer(f"weight_{stage}") for stage in range(len(maps))}, self.bias)
            (rows,) = head_logits(
                maps if self.is_3d else [features.unsqueeze(2) for features in maps],
                [head],
                sizes,
                strides=self.encoder.strides,
                centres=self.centres,
            )
            if not self.quadratic:
                return rows
            logits = torch.einsum("cr,brsuv->bcsuv", self.linear, rows)
            logits = logits + torch.einsum("cr,brsuv->bcsuv", self.square, rows.square())
            return logits + self.offset[:, None, None, None]
