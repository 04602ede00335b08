"""Depthwise convolutions whose gradients are fast on a CPU.

torch's backward pass of a depthwise convolution is fast on a CPU only in 2D and float32. Elsewhere the same gradients
come from operations that are fast:

- the gradient of the input is a convolution of the output's gradient with the flipped kernel; where the stride is above
  1, zeros stand between the values;
- the gradient of a 3D kernel is one 2D gradient per plane of the kernel, with the slices in the batch;
- in 2D, bfloat16 is computed in float32.

Whether this pays depends on the machine: :func:`depthwise_gain` measures it, and the plan records the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from seg_transfer.options.choices import Precision
from seg_transfer.transfer.inflate import SliceConv3d
from seg_transfer.util.environment import fastest

_SHAPES = {2: ((4, 96, 32, 32), 5), 3: ((1, 64, 8, 24, 24), 3)}
"""Dimensions -> input and side of the kernel that :func:`depthwise_gain` measures."""


class DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution of ``(batch, channel, *sizes)``, in 2D or 3D, without dilation.

    Arguments: input, kernel ``(channel, 1, *sizes)``, stride and padding, one per axis.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.stride, ctx.padding = stride, padding
        return _convolve(x, kernel, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernel = ctx.saved_tensors
        (gradient,), of_input, of_kernel = gradients, None, None
        if kernel.ndim == 4:
            of_input, of_kernel = _torch_gradients(
                gradient, x, kernel, ctx.stride, ctx.padding, ctx.needs_input_grad[:2]
            )
        else:
            if ctx.needs_input_grad[0]:
                of_input = _input_gradient(gradient, x.shape[2:], kernel, ctx.stride, ctx.padding)
            if ctx.needs_input_grad[1]:
                of_kernel = _kernel_gradient(gradient, x, kernel, ctx.stride, ctx.padding)
        return (
            None if of_input is None else of_input.to(x.dtype),
            None if of_kernel is None else of_kernel.to(kernel.dtype),
            None,
            None,
        )


def _convolve(x: Tensor, kernel: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
    dilation, outer = [1] * len(stride), [0] * len(stride)
    return torch.ops.aten.convolution(x, kernel, None, stride, padding, dilation, False, outer, len(kernel))


def _torch_gradients(
    gradient: Tensor,
    x: Tensor,
    kernel: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Torch's own gradients of input and kernel, in float32."""
    arguments = (gradient.float(), x.float(), kernel.float())
    dilation, outer = [1] * len(stride), [0] * len(stride)
    found = torch.ops.aten.convolution_backward(
        *arguments, None, stride, padding, dilation, False, outer, len(kernel), [*wanted, False]
    )
    return found[0], found[1]


def _input_gradient(
    gradient: Tensor, lengths: torch.Size, kernel: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """The gradient of a 3D convolution's input of these lengths."""
    sizes = kernel.shape[2:]
    if max(stride) > 1:
        spread = [length + 2 * pad - size + 1 for length, pad, size in zip(lengths, padding, sizes, strict=True)]
        between = torch.empty(
            (*gradient.shape[:2], *spread), dtype=gradient.dtype, memory_format=torch.channels_last_3d
        ).zero_()
        between[:, :, :: stride[0], :: stride[1], :: stride[2]] = gradient
        gradient = between
    outer = tuple(size - 1 - pad for size, pad in zip(sizes, padding, strict=True))
    return _convolve(gradient, kernel.flip((2, 3, 4)), (1, 1, 1), outer)


def _kernel_gradient(
    gradient: Tensor, x: Tensor, kernel: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """The gradient of a 3D convolution's kernel, plane by plane."""
    if padding[0]:
        x = nn.functional.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
    reach = stride[0] * (gradient.shape[2] - 1) + 1
    slices = gradient.transpose(1, 2).flatten(0, 1).float()
    planes = []
    for plane in range(kernel.shape[2]):
        seen = x[:, :, plane : plane + reach : stride[0]].transpose(1, 2).flatten(0, 1)
        _, found = _torch_gradients(slices, seen, kernel[:, :, plane], stride[1:], padding[1:], (False, True))
        planes.append(cast(Tensor, found))
    return torch.stack(planes, dim=2)


class _FastGradients(nn.modules.conv._ConvNd):
    """Mixed into a depthwise convolution: :class:`DepthwiseConvolution` where gradients are needed."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled() or input.device.type != "cpu":
            return cast(Tensor, super()._conv_forward(input, weight, bias))
        if torch.is_autocast_enabled("cpu"):
            reduced = torch.get_autocast_dtype("cpu")
            input, weight = input.to(reduced), weight.to(reduced)
        result = cast(Tensor, DepthwiseConvolution.apply(input, weight, self.stride, self.padding))
        if bias is None:
            return result
        return result + bias.to(result.dtype).view(-1, *[1] * (result.ndim - 2))


class DepthwiseConv2d(_FastGradients, nn.Conv2d):
    """A 2D depthwise convolution with fast gradients."""


class DepthwiseConv3d(_FastGradients, SliceConv3d):
    """A 3D depthwise convolution with fast gradients."""


FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: DepthwiseConv2d, SliceConv3d: DepthwiseConv3d}


def speed_up_depthwise(network: nn.Module) -> None:
    """Give depthwise convolutions the fast gradients, in place; names, weights and results stay the same."""
    for module in network.modules():
        if type(module) in FAST and _is_depthwise(cast(nn.Conv2d, module)):
            module.__class__ = FAST[type(module)]


def _is_depthwise(module: nn.Conv2d) -> bool:
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and set(module.dilation) == {1}
        and module.padding_mode == "zeros"
    )


@cache
def depthwise_gain(dimensions: Literal[2, 3], precision: Precision) -> float:
    """Measure how many times faster a depthwise convolution's gradients are than torch's, on this machine's CPU.

    See :func:`~seg_transfer.util.environment.fastest`; once in a process, so that planning twice plans the same. 2D in
    float32 is torch's own and counts as 1.

    Args:
        dimensions: Of the convolution.
        precision: Of the operations.
    """
    if dimensions == 2 and precision == "float32":
        return 1.0
    shape, side = _SHAPES[dimensions]
    layout = torch.channels_last if dimensions == 2 else torch.channels_last_3d
    dtype = getattr(torch, precision)
    x = torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
    kernel = torch.randn(shape[1], 1, *[side] * dimensions).to(dtype).requires_grad_()
    return _backward_seconds(_convolve, x, kernel) / _backward_seconds(DepthwiseConvolution.apply, x, kernel)


def _backward_seconds(convolution: Callable[..., Tensor], x: Tensor, kernel: Tensor) -> float:
    """Seconds of the backward pass of a convolution that keeps the size."""
    sides = kernel.shape[2:]
    result = convolution(x, kernel, (1,) * len(sides), tuple(side // 2 for side in sides))
    gradient = torch.ones_like(result)
    return fastest(lambda: torch.autograd.grad(result, (x, kernel), gradient, retain_graph=True))
