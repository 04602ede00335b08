"""2D modules become 3D ones: a volume that is constant along the slice axis keeps exactly its 2D features.

Inflation follows I3D (Carreira and Zisserman, CVPR 2017): a 2D kernel is repeated along the slice axis and divided by
its depth ("average"), or put in the middle between zeros ("centre"). For both, the sum along the slice axis is the 2D
kernel; with edge slices repeated as padding, the 3D response to a constant volume is therefore the 2D response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional

Inflation = Literal["average", "centre"]
DEEPEST_KERNEL = 3


def levels_with_depth(slice_strides: Sequence[int]) -> tuple[bool, ...]:
    """Which levels have kernels that reach along the slice axis.

    Before the first level that strides along it, in-plane spacing is still finer than the slice spacing, and a kernel
    over several slices would be stretched in millimetres. If no level strides along it, the deepest one reaches.
    """
    first = next((level for level, stride in enumerate(slice_strides) if stride == 2), len(slice_strides) - 1)
    return tuple(level >= first for level in range(len(slice_strides)))


def inflate_weight(weight: Tensor, depth: int, inflation: Inflation) -> Tensor:
    """A 2D kernel ``(out, in, u, v)`` as a 3D one ``(out, in, depth, u, v)`` whose sum over depth is the 2D kernel."""
    if inflation == "average":
        return weight.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    inflated = weight.new_zeros(*weight.shape[:2], depth, *weight.shape[2:])
    inflated[:, :, depth // 2] = weight
    return inflated


class SliceConv3d(nn.Conv3d):
    """3D convolution that repeats the edge slices as padding along the slice axis and pads zeros in-plane."""

    def forward(self, input: Tensor) -> Tensor:
        reach = self.kernel_size[0] // 2
        if reach:
            input = functional.pad(input, (0, 0, 0, 0, reach, reach), mode="replicate")
        return super().forward(input)


def inflate_modules(module: nn.Module, slice_stride: int) -> nn.Module:
    """Convert convolutions, BatchNorms and max pools inside a module to 3D, in place; returns what replaces it.

    A module that strides in-plane strides by ``slice_stride`` along the slice axis. Kernels are as deep as they are
    wide, but at most 3: ImageNet stems are 7 wide, and both depths fulfil the exactness above.

    The new parameters are uninitialised in meaning: load or initialise them afterwards.
    """
    if isinstance(module, nn.Conv2d):
        return _convolution(module, slice_stride)
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm3d(module.num_features, eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.MaxPool2d):
        return _pool(module, slice_stride)
    for name, child in module.named_children():
        setattr(module, name, inflate_modules(child, slice_stride))
    return module


def _convolution(module: nn.Conv2d, slice_stride: int) -> SliceConv3d:
    return SliceConv3d(
        module.in_channels,
        module.out_channels,
        kernel_size=_with_slice(min(module.kernel_size[0], DEEPEST_KERNEL), module.kernel_size),
        stride=_with_slice(slice_stride if module.stride[0] > 1 else 1, module.stride),
        padding=_with_slice(0, cast(tuple[int, ...], module.padding)),
        dilation=_with_slice(1, module.dilation),
        groups=module.groups,
        bias=module.bias is not None,
    )


def _pool(module: nn.MaxPool2d, slice_stride: int) -> nn.MaxPool3d:
    size, stride, padding = (cast(int, value) for value in (module.kernel_size, module.stride, module.padding))
    if slice_stride == 1:
        return nn.MaxPool3d((1, size, size), (1, stride, stride), (0, padding, padding), ceil_mode=module.ceil_mode)
    return nn.MaxPool3d(size, stride, padding, ceil_mode=module.ceil_mode)


def _with_slice(along_slices: int, in_plane: tuple[int, ...]) -> tuple[int, int, int]:
    u, v = in_plane
    return along_slices, u, v
