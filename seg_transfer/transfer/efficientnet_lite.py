"""EfficientNet-Lite (Google, 2020), the default encoder, with timm's names of modules and weights.

Written here since importing timm, and torchvision with it, takes longer than predicting a small case. EfficientNet (Tan
and Le, ICML 2019) without squeeze-and-excitation and with ReLU6; a contract test compares its features with timm's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

STEM = 32
EPS = 1e-3


class Blocks(NamedTuple):
    """Blocks of a stage: how many, side of the depthwise kernel, stride, factor of the channels inside, channels."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Blocks(1, 3, 1, 1, 16),
    Blocks(2, 3, 2, 6, 24),
    Blocks(2, 5, 2, 6, 40),
    Blocks(3, 3, 2, 6, 80),
    Blocks(3, 5, 1, 6, 112),
    Blocks(4, 5, 2, 6, 192),
    Blocks(1, 3, 1, 6, 320),
)
SCALES = {
    "tf_efficientnet_lite0": (1.0, 1.0),
    "tf_efficientnet_lite1": (1.0, 1.1),
    "tf_efficientnet_lite2": (1.1, 1.2),
}
"""Name -> factors of the channels and of the blocks. The stem and the number of blocks at both ends are fixed."""
ENDS = (0, 1, 2, 4, 6)
"""Stages before a stride, and the last one: those whose maps are features."""


class EfficientNetLite(nn.Module):
    """The network up to its last map; weights are allocated, not set.

    Args:
        name: A key of :data:`SCALES`.
        channels: Channels that the first convolution reads.

    Attributes:
        ends: Name of each feature map's module -> its channels and its stride.
    """

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        wider, deeper = SCALES[name]
        self.conv_stem = nn.Conv2d(channels, STEM, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM, eps=EPS)
        self.act1 = nn.ReLU6(inplace=True)
        self.blocks = nn.Sequential()
        self.ends: dict[str, tuple[int, int]] = {}
        before, stride = STEM, 2
        for index, stage in enumerate(STAGES):
            is_fixed = index in (0, len(STAGES) - 1)
            count = stage.blocks if is_fixed else math.ceil(stage.blocks * deeper)
            after = _rounded(stage.channels * wider)
            blocks = nn.Sequential()
            for number in range(count):
                step = 1 if number else stage.stride
                block = (
                    _Inverted(before, after, stage, step) if stage.expansion > 1 else _Separable(before, after, stage)
                )
                blocks.append(block)
                before = after
            self.blocks.append(blocks)
            stride *= stage.stride
            if index in ENDS:
                self.ends[f"blocks_{index}"] = (after, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.act1(self.bn1(self.conv_stem(x))))


class _Separable(nn.Module):
    """A depthwise convolution, and one over channels."""

    def __init__(self, before: int, after: int, stage: Blocks) -> None:
        super().__init__()
        self.conv_dw = _depthwise(before, stage.kernel, stage.stride)
        self.bn1 = nn.BatchNorm2d(before, eps=EPS)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw = nn.Conv2d(before, after, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after, eps=EPS)
        self.has_skip = stage.stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(x)))))
        return y + x if self.has_skip else y


class _Inverted(nn.Module):
    """More channels, a depthwise convolution, and fewer channels (MobileNetV2's inverted residual)."""

    def __init__(self, before: int, after: int, stage: Blocks, stride: int) -> None:
        super().__init__()
        inside = before * stage.expansion
        self.conv_pw = nn.Conv2d(before, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside, eps=EPS)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_dw = _depthwise(inside, stage.kernel, stride)
        self.bn2 = nn.BatchNorm2d(inside, eps=EPS)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl = nn.Conv2d(inside, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after, eps=EPS)
        self.has_skip = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.act2(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return y + x if self.has_skip else y


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels, bias=False)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not a tenth smaller."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
