"""Convolutions of maps that are smaller than their kernel, in float32 where others are computed in bfloat16.

torch's gradients of such kernels are wrong in bfloat16 on CPUs that have instructions for it, and memory is
overwritten, so that the process may end: seen with torch 2.15 on an AMD EPYC with AVX-512 (docs/log.md, 2026-11-29).
pytorch issue 169688 reports wrong values on CPUs with AMX, where one voxel comes out of a stride. Larger maps are right
in both (``tests/contract/test_bfloat16.py``).
"""

from __future__ import annotations

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn


def guard_small_maps(network: nn.Module) -> None:
    """Let convolutions under autocast on a CPU compute small maps in float32, in place; names and weights stay."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and not isinstance(module, _Guarded):
            module.__class__ = _guarded(type(module))  # type: ignore[assignment, arg-type]


@cache
def _guarded(convolution: type[nn.Module]) -> type[nn.Module]:
    return type(convolution.__name__, (_Guarded, convolution), {})


class _Guarded(nn.modules.conv._ConvNd):
    """Mixed into a convolution."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu") or input.device.type != "cpu" or not self._is_small(input):
            return cast(Tensor, super().forward(input))
        with torch.autocast("cpu", enabled=False):
            result = super().forward(input.float())
        return cast(Tensor, result).to(torch.get_autocast_dtype("cpu"))

    def _is_small(self, input: Tensor) -> bool:
        axes = zip(input.shape[2:], self.kernel_size, self.dilation, self.stride, strict=True)
        return any(size <= (side - 1) * dilation or 1 < stride >= size for size, side, dilation, stride in axes)
