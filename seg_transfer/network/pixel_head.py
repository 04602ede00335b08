"""A classifier of single voxels by the encoder's features, as a network like any other.

A linear classifier of all stages' features side by side is a 1x1 convolution of each stage, whose scores are
interpolated to the voxels and added (``stage_logits.py``). Gaussian naive Bayes is quadratic in what it reads, and
squares do not commute with interpolation: the projected features (at most 64, which are linear) are interpolated and
added, and only then squared, so that it too decides about exactly what it was fitted to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seg_transfer.network.encoder_network import Reader
from seg_transfer.network.stage_logits import stage_logits
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.transfer.centres import map_centres

COMPONENTS = 64
"""Principal components that classifiers read."""


class PixelHead(Reader):
    """``(batch, channel, slice, u, v)`` in, logits ``(batch, class, slice, u, v)`` out, 1 slice in 2D and 2.5D.

    Logits of an SVM are its decision values. Naive Bayes holds ``4 * 64`` bytes for every voxel of the input. Scores
    are computed in float32, whatever the encoder computes in. Until it is fitted, all logits are 0.

    Args:
        model: The plan's model.
        channels: Image channels.
        classes: Classes, background included.

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
        with torch.autocast(x.device.type, enabled=False):
            scores = self.bias[None, :, None, None, None]
            for stage, features in enumerate(maps):
                scores = scores + stage_logits(
                    features if self.is_3d else features.unsqueeze(2),
                    self.get_buffer(f"weight_{stage}"),
                    sizes,
                    stride=self.encoder.strides[stage],
                    centre=self.centres[stage],
                )
            if self.quadratic:
                found = torch.einsum("cr,brsuv->bcsuv", self.linear, scores)
                found = found + torch.einsum("cr,brsuv->bcsuv", self.square, scores.square())
                scores = found + self.offset[:, None, None, None]
        return scores
