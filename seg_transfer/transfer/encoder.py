"""An ImageNet backbone as a pyramid of levels, each of size ``ceil(input / stride)``, for slices, stacks and volumes.

Strides are the catalogue's: level 0 has 2 in most networks and 4 in some, and each further level twice the one before.
The modules are the library's, with its names; only those of the levels in use hold data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer import catalogue
from seg_transfer.transfer.inflate import Inflation, inflate_modules, levels_with_depth
from seg_transfer.transfer.levels import Level, load_levels


def initialise(module: nn.Module) -> None:
    """Random weights where no pretrained ones follow: Kaiming for convolutions and dense layers, norms at one and zero.

    Also what scales the end of a residual branch starts at one, where timm starts norms at zero and ConvNeXt's layer
    scale at a millionth.
    """
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        outputs = module.out_channels // module.groups * math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
    elif isinstance(module, _BatchNorm | nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, ConvNeXtBlock):
        nn.init.ones_(cast(nn.Parameter, module.gamma))


class Encoder(nn.Module):
    """The first levels of an ImageNet network, in 2D, 2.5D or 3D.

    Input ``(batch, channel, slice, u, v)``. In 2D and 2.5D the slices become channels (channel by channel) and level k
    is ``(batch, channels[k], u', v')``; in 3D it is ``(batch, channels[k], slice', u', v')``. Every size is
    ``ceil(input size / stride)``.

    Levels of a 3D encoder before the first stride along the slice axis stay 2D modules which see every slice by
    itself, equal to 3D ones with kernel 1 along it; the levels from there on are converted (see ``inflate``).

    Args:
        name: Name in the catalogue.
        channels: Channels that the first convolution reads: in 2.5D channels times slices.
        stages: Levels in use, from the finest; all by default.
        slice_strides: 3D only: stride along the slice axis, one per level. None: 2D and 2.5D.
        inflation: 3D only: how ``load_weights`` inflates kernels.

    Attributes:
        channels: Channels of each level.
        strides: Stride (slice, u, v) of each level relative to the input; 1 along the slice axis in 2D and 2.5D.
    """

    def __init__(
        self,
        name: str,
        *,
        channels: int,
        stages: int | None = None,
        slice_strides: Sequence[int] | None = None,
        inflation: Inflation = "average",
    ) -> None:
        super().__init__()
        known = catalogue.entry(name)
        self.name, self.inflation = name, inflation
        self.is_3d = slice_strides is not None
        # Without data at first: levels beyond those in use, and VGG's 120 million classifier weights, cost nothing.
        with torch.device("meta"):
            levels = load_levels(known.library, known.library_name, channels)[:stages]
        self.channels = tuple(level.channels for level in levels)
        per_level = tuple(slice_strides) if slice_strides is not None else (1,) * len(levels)
        self.strides = _cumulative(per_level, levels)
        depth = levels_with_depth(per_level) if self.is_3d else (False,) * len(levels)
        self.stages = nn.ModuleList()
        for level, slice_stride, has_depth in zip(levels, per_level, depth, strict=True):
            with torch.device("meta"):
                self.stages.append(inflate_modules(level.modules, slice_stride) if has_depth else level.modules)
        self.has_depth = depth
        self.stages.to_empty(device=torch.get_default_device())  # "meta" where only shapes are asked for
        self.stages.apply(initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        if not self.is_3d:
            x = x.flatten(1, 2)
        outputs = []
        for stage, has_depth in zip(self.stages, self.has_depth, strict=True):
            x = stage(x) if has_depth or not self.is_3d else _by_slice(stage, x)
            outputs.append(x)
        return outputs

    def level_modules(self) -> list[nn.Module]:
        """One module per level, finest first."""
        return list(self.stages)

    def levels(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Parameters of each level, finest first, with their names in this module."""
        return [
            [(f"stages.{index}.{name}", parameter) for name, parameter in stage.named_parameters()]
            for index, stage in enumerate(self.stages)
        ]

    def first_convolution(self) -> str:
        """Name of the weight in this module which reads the image's channels."""
        return next(name for name, parameter in self.named_parameters() if parameter.ndim > 1)


def _by_slice(stage: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D module to every slice: slices join the batch, so that BatchNorm's statistics are those of 3D."""
    batch, _, slices = x.shape[:3]
    y = stage(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (batch, slices)).transpose(1, 2)


def _cumulative(slice_strides: Sequence[int], levels: Sequence[Level]) -> tuple[tuple[int, int, int], ...]:
    strides, along = [], 1
    for slice_stride, level in zip(slice_strides, levels, strict=True):
        along *= slice_stride
        strides.append((along, level.stride, level.stride))
    return tuple(strides)
