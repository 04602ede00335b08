"""Modules of timm that need a treatment of their own: in 3D, for random weights, and for the size of maps.

Imported only where a network has such modules (:func:`is_of_timm`), since importing timm takes seconds.
"""

from __future__ import annotations

from typing import cast

from timm.layers import Conv2dSame, LayerNorm2d, SEModule
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models.convnext import ConvNeXtBlock
from timm.models.hgnet import LearnableAffineBlock
from timm.models.inception_v3 import InceptionB, InceptionD
from torch import Tensor, nn
from torch.nn import functional


class _SlicesAsRows(nn.Module):
    """Applies a 2D module to ``(batch, channel, slice, u, v)`` with slice and u as one axis.

    For modules whose result does not depend on the order of positions.
    """

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, super().forward(x.flatten(2, 3))).unflatten(2, x.shape[2:4])


class VolumeLayerNorm(_SlicesAsRows, LayerNorm2d):
    """timm's layer norm over channels, at every voxel."""


class VolumeSEModule(_SlicesAsRows, SEModule):
    """RegNet's squeeze-and-excitation, with the mean over the volume."""


class VolumeSqueezeExcite(_SlicesAsRows, SqueezeExcite):
    """EfficientNet's and MobileNet's squeeze-and-excitation, with the mean over the volume."""


class VolumeConvNeXtBlock(ConvNeXtBlock):
    """ConvNeXt's block with its dense layers at every voxel of a volume."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_dw(x)
        # The smallest networks' MLP is of convolutions, channels first.
        y = self.mlp(self.norm(y)).movedim(1, -1) if self.use_conv_mlp else self.mlp(self.norm(y.movedim(1, -1)))
        return self.drop_path((y * self.gamma).movedim(-1, 1)) + self.shortcut(x)


SAME_PARAMETERS: dict[type[nn.Module], type[nn.Module]] = {
    LayerNorm2d: VolumeLayerNorm,
    SEModule: VolumeSEModule,
    SqueezeExcite: VolumeSqueezeExcite,
}
"""2D module -> 3D module with the same parameters."""


def to_volume(module: nn.Module) -> bool:
    """Let a module work on volumes, in place; returns whether its children are done too."""
    if type(module) in SAME_PARAMETERS:
        module.__class__ = SAME_PARAMETERS[type(module)]
        return True
    if isinstance(module, ConvNeXtBlock):
        module.__class__ = VolumeConvNeXtBlock
    return False


def initialise_scale(module: nn.Module) -> None:
    """Let the scale of a residual branch start at 1."""
    if isinstance(module, LearnableAffineBlock):
        nn.init.ones_(module.scale)
        nn.init.zeros_(module.bias)
    elif isinstance(module, ConvNeXtBlock):
        nn.init.ones_(cast(nn.Parameter, module.gamma))


def pad_halving_block(module: nn.Module) -> bool:
    """Give InceptionV3's blocks that halve the size a border, in place; returns whether it is one."""
    if isinstance(module, InceptionB | InceptionD):
        module.register_forward_pre_hook(_zero_border)
        return True
    return False


def plain_convolution(module: nn.Conv2d) -> None:
    """Turn a convolution with TensorFlow's padding into torch's own, in place."""
    if isinstance(module, Conv2dSame):
        module.__class__ = nn.Conv2d  # type: ignore[assignment]


def _zero_border(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (functional.pad(inputs[0], (1, 1, 1, 1)),)
