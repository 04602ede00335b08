"""Converts 2D modules to 3D. A volume that is constant along the slice axis keeps exactly its 2D features.

Inflation follows I3D (Carreira and Zisserman, CVPR 2017): a 2D kernel is repeated along the slice axis and divided by
its depth ("average"), or put in the middle between zeros ("centre"). For both, the sum along the slice axis is the 2D
kernel; with edge slices repeated as padding, the 3D response to a constant volume is therefore the 2D response.

Norms over channels and dense layers work voxel by voxel and keep their 2D weights. Squeeze-and-excitation takes its
mean over the whole volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from seg_transfer.transfer.stages import PatchConv2d, is_of_timm, pad_to_multiple

Inflation = Literal["average", "centre"]
MAX_DEPTH = 3
"""Largest depth of an inflated kernel along the slice axis."""


def stages_with_depth(slice_strides: Sequence[int]) -> tuple[bool, ...]:
    """Whether each stage has kernels of depth above 1 along the slice axis.

    Before the first stage that strides along it, in-plane spacing is still finer than slice spacing, and a kernel over
    several slices would be stretched in millimetres. If no stage strides along it, only the deepest one has depth.
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


def fit_depth(weight: Tensor, target: Tensor, inflation: Inflation) -> Tensor:
    """Inflate a 2D kernel where ``target`` is a 3D one; other weights stay as they are."""
    if weight.ndim == 4 and target.ndim == 5:
        return inflate_weight(weight, target.shape[2], inflation)
    return weight


class SliceConv3d(nn.Conv3d):
    """3D convolution that repeats the edge slices as padding along the slice axis and pads zeros in-plane.

    Edge slices are concatenated: torch's replicate padding runs in float32 under autocast on a CPU and keeps a float32
    copy of its input for the backward pass.
    """

    def forward(self, input: Tensor) -> Tensor:
        padding = self.kernel_size[0] // 2
        if padding:
            first, last = input[:, :, :1], input[:, :, -1:]
            input = torch.cat([first] * padding + [input] + [last] * padding, dim=2)
        return super().forward(input)


class PatchConv3d(nn.Conv3d):
    """3D convolution as large as its stride; sizes are padded to a multiple of it by repeating the last voxel."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(pad_to_multiple(input, self.stride))


class BatchNormAct3d(nn.BatchNorm3d):
    """BatchNorm and activation in one module, as timm has them in 2D."""

    def __init__(self, features: int, *, eps: float, momentum: float | None, act: nn.Module) -> None:
        super().__init__(features, eps=eps, momentum=momentum)
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


def inflate_modules(module: nn.Module, slice_stride: int) -> nn.Module:
    """Convert a module and its children to 3D, in place; returns the module or its replacement.

    Modules with a stride in-plane get ``slice_stride`` along the slice axis. Kernels are as deep as they are wide, but
    at most 3, since ImageNet stems are 7 wide. Kernels as wide as their stride are as deep as ``slice_stride``.

    The parameters of new modules must be loaded or initialised afterwards.
    """
    if isinstance(module, nn.Conv2d):
        return _convolution(module, slice_stride)
    if isinstance(module, nn.BatchNorm2d):
        if (act := getattr(module, "act", None)) is not None:  # timm has both in one module
            return BatchNormAct3d(module.num_features, eps=module.eps, momentum=module.momentum, act=act)
        return nn.BatchNorm3d(module.num_features, eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.MaxPool2d):
        return _max_pool(module, slice_stride)
    if isinstance(module, nn.AvgPool2d):
        size = cast(int, module.kernel_size)
        return nn.AvgPool3d((slice_stride, size, size), ceil_mode=module.ceil_mode)
    if is_of_timm(module):
        from seg_transfer.transfer.timm_modules import to_volume

        if to_volume(module):
            return module
    for name, child in module.named_children():
        setattr(module, name, inflate_modules(child, slice_stride))
    return module


def _convolution(module: nn.Conv2d, slice_stride: int) -> nn.Conv3d:
    along = slice_stride if module.stride[0] > 1 else 1
    is_patch = isinstance(module, PatchConv2d)
    u, v = module.kernel_size
    stride, padding, dilation = (
        cast(tuple[int, int], each) for each in (module.stride, module.padding, module.dilation)
    )
    return (PatchConv3d if is_patch else SliceConv3d)(
        module.in_channels,
        module.out_channels,
        kernel_size=(along if is_patch else min(u, MAX_DEPTH), u, v),
        stride=(along, *stride),
        padding=(0, *padding),
        dilation=(1, *dilation),
        groups=module.groups,
        bias=module.bias is not None,
    )


def _max_pool(module: nn.MaxPool2d, slice_stride: int) -> nn.MaxPool3d:
    size, stride, padding = (cast(int, value) for value in (module.kernel_size, module.stride, module.padding))
    if slice_stride == 1:
        return nn.MaxPool3d((1, size, size), (1, stride, stride), (0, padding, padding), ceil_mode=module.ceil_mode)
    return nn.MaxPool3d(size, stride, padding, ceil_mode=module.ceil_mode)
