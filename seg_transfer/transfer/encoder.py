"""An ImageNet backbone as a pyramid of stages, each of size ``ceil(input / stride)``, in 2D, 2.5D and 3D.

Strides are the catalogue's: stage 0 has 2 in most networks and 4 in some; the stride doubles from stage to stage.
Modules keep the library's names. Only the stages in use allocate memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.transfer.describe import describe
from seg_transfer.transfer.folding import fold_batchnorm
from seg_transfer.transfer.inflate import Inflation, inflate_modules, stages_with_depth
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import image_weights, is_of_timm, load_stages

EXAMPLE_SIZES = (4, 32, 32)
"""Slices, u and v of the map that a folded stage is checked on."""


def initialise(module: nn.Module) -> None:
    """Set random weights: Kaiming for convolutions and dense layers, 1 and 0 for norms.

    The last scale of a residual branch starts at 1 too, where timm sets norms to 0 and ConvNeXt's layer scale to 1e-6.
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
    elif is_of_timm(module):
        from seg_transfer.transfer.timm_modules import initialise_scale

        initialise_scale(module)


class Encoder(nn.Module):
    """The first stages of an ImageNet network, in 2D, 2.5D or 3D.

    Input ``(batch, channel, slice, u, v)``. In 2D and 2.5D the slices become channels (channel by channel) and stage k
    is ``(batch, channels[k], u', v')``; in 3D it is ``(batch, channels[k], slice', u', v')``. Every size is
    ``ceil(input size / stride)``.

    In 3D, stages before the first stride along the slice axis stay 2D modules that are applied slice by slice, which
    equals 3D kernels of depth 1; the stages from there on are inflated (see :mod:`~seg_transfer.transfer.inflate`).

    Args:
        name: Name in the catalogue, or ``timm/NAME``.
        channels: Channels that the first convolution reads: in 2.5D channels times slices.
        slices: 2.5D only: slices of a stack.
        stages: Stages in use, from the finest; all by default.
        slice_strides: 3D only: stride along the slice axis, one per stage. None: 2D and 2.5D.
        inflation: 3D only: how ``load_weights`` inflates kernels.

    Attributes:
        stages: One module per stage, finest first.
        channels: Channels of each stage.
        strides: Stride (slice, u, v) of each stage relative to the input; 1 along the slice axis in 2D and 2.5D.
    """

    def __init__(
        self,
        name: str,
        *,
        channels: int,
        slices: int = 1,
        stages: int | None = None,
        slice_strides: Sequence[int] | None = None,
        inflation: Inflation = "average",
    ) -> None:
        super().__init__()
        entry = describe(name)
        self.name, self.slices, self.inflation = name, slices, inflation
        self._inputs = channels
        self._folded: dict[int, nn.Module] = {}  # no submodules: they are in no checkpoint
        self.is_3d = slice_strides is not None
        # On "meta", so that unused stages and VGG's 120 million classifier weights allocate nothing.
        with on_meta():
            loaded = load_stages(entry.library, entry.library_name, channels)[:stages]
        self.channels = tuple(each.channels for each in loaded)
        per_stage = tuple(slice_strides) if slice_strides is not None else (1,) * len(loaded)
        self.strides = tuple(
            (along, each.stride, each.stride) for along, each in zip(accumulate(per_stage, mul), loaded, strict=True)
        )
        depth = stages_with_depth(per_stage) if self.is_3d else (False,) * len(loaded)
        self.stages = nn.ModuleList()
        for each, slice_stride, has_depth in zip(loaded, per_stage, depth, strict=True):
            with on_meta():
                self.stages.append(inflate_modules(each.modules, slice_stride) if has_depth else each.modules)
        self.has_depth = depth
        device = torch.get_default_device()
        if device.type != "meta":  # where only shapes are needed, or weights follow
            # Like to_empty(), for which torch imports its compiler.
            self.stages._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
            self.stages.apply(initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        if not self.is_3d:
            x = x.flatten(1, 2)
        outputs = []
        for index, (stage, has_depth) in enumerate(zip(self.stages, self.has_depth, strict=True)):
            stage = self._folded.get(index, stage)
            x = stage(x) if has_depth or not self.is_3d else _by_slice(stage, x)
            outputs.append(x)
        return outputs

    def fold(self, stages: Collection[int]) -> None:
        """Compute these stages, and no others, with BatchNorm folded into convolutions.

        For stages that do not change: their weights are copied when they are first named.

        Args:
            stages: Indices of the stages, 0 the finest.
        """
        for index in self._folded.keys() - set(stages):
            del self._folded[index]
        for index in set(stages) - self._folded.keys():
            channels = self.channels[index - 1] if index else self._inputs
            sizes = EXAMPLE_SIZES[-3 if self.has_depth[index] else -2 :]
            random = torch.Generator().manual_seed(index)
            example = torch.randn(1, channels, *sizes, generator=random)
            stage = self.stages[index]
            self._folded[index] = fold_batchnorm(stage, example.to(next(stage.parameters())))

    def image_weights(self) -> frozenset[str]:
        """Names, in this module, of the weights that read the image's channels."""
        known = describe(self.name)
        return frozenset(f"stages.0.{name}" for name in image_weights(known.library, known.library_name))


def _by_slice(stage: nn.Module, x: Tensor) -> Tensor:
    """Apply a 2D module to every slice. Slices join the batch, so that BatchNorm's statistics equal those of 3D."""
    batch, _, slices = x.shape[:3]
    y = stage(x.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (batch, slices)).transpose(1, 2)
