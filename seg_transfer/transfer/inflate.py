"""2D modules become 3D ones: a volume that is constant along the slice axis keeps exactly its 2D features.

Inflation follows I3D (Carreira and Zisserman, CVPR 2017): a 2D kernel is repeated along the slice axis and divided by
its depth ("average"), or put in the middle between zeros ("centre"). For both, the sum along the slice axis is the 2D
kernel; with edge slices repeated as padding, the 3D response to a constant volume is therefore the 2D response.

Norms over channels alone and dense layers work position by position and keep their 2D weights; squeeze-and-excitation
takes its mean over the whole volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from timm.layers import BatchNormAct2d, LayerNorm2d, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from seg_transfer.transfer.stages import PatchConv2d, fill_up

Inflation = Literal["average", "centre"]
DEEPEST_KERNEL = 3


def stages_with_depth(slice_strides: Sequence[int]) -> tuple[bool, ...]:
    """Which stages have kernels that reach along the slice axis.

    Before the first stage that strides along it, in-plane spacing is still finer than the slice spacing, and a kernel
    over several slices would be stretched in millimetres. If no stage strides along it, the deepest one reaches.
    """
    first = next((stage for stage, stride in enumerate(slice_strides) if stride == 2), len(slice_strides) - 1)
    return tuple(stage >= first for stage in range(len(slice_strides)))


def inflate_weight(weight: Tensor, depth: int, inflation: Inflation) -> Tensor:
    """A 2D kernel ``(out, in, u, v)`` as a 3D one ``(out, in, depth, u, v)`` whose sum over depth is the 2D kernel."""
    if inflation == "average":
        return weight.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    inflated = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
    inflated[:, :, depth // 2] = weight
    return inflated


class SliceConv3d(nn.Conv3d):
    """3D convolution that repeats the edge slices as padding along the slice axis and pads zeros in-plane.

    Edges are joined, since replicate padding runs in float32 under autocast on a CPU and keeps a float32 copy of its
    input for the backward pass.
    """

    def forward(self, input: Tensor) -> Tensor:
        reach = self.kernel_size[0] // 2
        if reach:
            first, last = input[:, :, :1], input[:, :, -1:]
            input = torch.cat([first] * reach + [input] + [last] * reach, dim=2)
        return super().forward(input)


class PatchConv3d(nn.Conv3d):
    """3D convolution as large as its stride; sizes that are no multiple are filled up by repeating the last voxel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(fill_up(input, self.stride))


class BatchNormAct3d(nn.BatchNorm3d):
    """BatchNorm with the activation that timm puts into the same module."""

    def __init__(self, features: int, *, eps: float, momentum: float | None, act: nn.Module) -> None:
        super().__init__(features, eps=eps, momentum=momentum)
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class VolumeLayerNorm(LayerNorm2d):
    """timm's layer norm over channels, at every voxel of ``(batch, channel, slice, u, v)``."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_picture(super().forward, x)


class VolumeSEModule(SEModule):
    """RegNet's squeeze-and-excitation, with the mean over the volume."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_picture(super().forward, x)


class VolumeSqueezeExcite(SqueezeExcite):
    """EfficientNet's and MobileNet's squeeze-and-excitation, with the mean over the volume."""

    def forward(self, x: Tensor) -> Tensor:
        return _as_picture(super().forward, x)


class VolumeConvNeXtBlock(ConvNeXtBlock):
    """ConvNeXt's block: depthwise convolution, then layer norm and dense layers at every voxel."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.conv_dw(x).movedim(1, -1)))
        return self.drop_path((y * self.gamma).movedim(-1, 1)) + self.shortcut(x)


SAME_PARAMETERS: dict[type[nn.Module], type[nn.Module]] = {
    LayerNorm2d: VolumeLayerNorm,
    SEModule: VolumeSEModule,
    SqueezeExcite: VolumeSqueezeExcite,
}
"""Modules whose parameters stay as they are, and what calls them on a volume."""


def inflate_modules(module: nn.Module, slice_stride: int) -> nn.Module:
    """Convert a module and all inside it to 3D, in place; returns what replaces it.

    A module that strides in-plane strides by ``slice_stride`` along the slice axis. Kernels are as deep as they are
    wide, but at most 3: ImageNet stems are 7 wide, and both depths fulfil the exactness above. Kernels as wide as their
    stride are as deep as ``slice_stride``.

    The new parameters are uninitialised in meaning: load or initialise them afterwards.
    """
    if isinstance(module, nn.Conv2d):
        return _convolution(module, slice_stride)
    if isinstance(module, BatchNormAct2d):
        return BatchNormAct3d(module.num_features, eps=module.eps, momentum=module.momentum, act=module.act)
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm3d(module.num_features, eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.MaxPool2d):
        return _max_pool(module, slice_stride)
    if isinstance(module, nn.AvgPool2d):
        size = cast(int, module.kernel_size)
        return nn.AvgPool3d((slice_stride, size, size), ceil_mode=module.ceil_mode)
    if type(module) in SAME_PARAMETERS:
        module.__class__ = SAME_PARAMETERS[type(module)]
        return module
    if isinstance(module, ConvNeXtBlock):
        module.__class__ = VolumeConvNeXtBlock
    for name, child in module.named_children():
        setattr(module, name, inflate_modules(child, slice_stride))
    return module


def _convolution(module: nn.Conv2d, slice_stride: int) -> nn.Conv3d:
    along = slice_stride if module.stride[0] > 1 else 1
    is_patch = isinstance(module, PatchConv2d)
    u, v = module.kernel_size
    made = PatchConv3d if is_patch else SliceConv3d
    return made(
        module.in_channels,
        module.out_channels,
        kernel_size=(along if is_patch else min(u, DEEPEST_KERNEL), u, v),
        stride=_with_slice(along, module.stride),
        padding=_with_slice(0, cast(tuple[int, ...], module.padding)),
        dilation=_with_slice(1, module.dilation),
        groups=module.groups,
        bias=module.bias is not None,
    )


def _max_pool(module: nn.MaxPool2d, slice_stride: int) -> nn.MaxPool3d:
    size, stride, padding = (cast(int, value) for value in (module.kernel_size, module.stride, module.padding))
    if slice_stride == 1:
        return nn.MaxPool3d((1, size, size), (1, stride, stride), (0, padding, padding), ceil_mode=module.ceil_mode)
    return nn.MaxPool3d(size, stride, padding, ceil_mode=module.ceil_mode)


def _as_picture(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply work on ``(batch, channel, u, v)`` to a volume, slice and u as one axis: for work that sees no order."""
    return work(x.flatten(2, 3)).unflatten(2, x.shape[2:4])


def _with_slice(along_slices: int, in_plane: tuple[int, ...]) -> tuple[int, int, int]:
    u, v = in_plane
    return along_slices, u, v
