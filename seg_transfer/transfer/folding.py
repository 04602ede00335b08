"""Computes stages that do not learn without BatchNorm, whose scale and shift move into the convolution before it."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3
"""Largest difference from the stage's own output, over that output's largest value; rounding stays far below."""


def fold_batchnorm(stage: nn.Module, example: Tensor) -> nn.Module:
    """Copy a stage in eval mode and fold each BatchNorm that directly follows a convolution into it.

    Which ones follow is seen on an example, since modules do not tell their order. The copy must give the stage's
    output there; otherwise, as where a convolution's output is used twice, the stage itself is returned.

    Args:
        stage: The stage; it is put into eval mode and its weights stay as they are.
        example: An input of the stage ``(batch, channel, *sizes)``; random values and small sizes will do.

    Returns:
        The copy, in eval mode and without gradients, or the stage.
    """
    stage.eval()
    copied = deepcopy(stage).requires_grad_(False)
    with torch.no_grad():
        expected, pairs = _run_and_pair(copied, example)
        for convolution, norm in pairs:
            fused = fuse_conv_bn_eval(copied.get_submodule(convolution), copied.get_submodule(norm))  # type: ignore
            _replace(copied, convolution, fused.requires_grad_(False))
            _replace(copied, norm, getattr(copied.get_submodule(norm), "act", nn.Identity()))
        found = copied(example)
    difference = (found - expected).abs().max()
    return copied if pairs and difference <= TOLERANCE * expected.abs().max() else stage


def _run_and_pair(stage: nn.Module, example: Tensor) -> tuple[Tensor, list[tuple[str, str]]]:
    """The output, and names of each convolution and the BatchNorm that reads its unchanged output."""
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    pairs: list[tuple[str, str]] = []
    handles = []

    def leaves(name: str, output: Tensor) -> None:
        outputs[id(output)] = name, output, output._version  # held, so that no other tensor takes its id

    def enters(name: str, input: Tensor) -> None:
        convolution, _, version = outputs.get(id(input), ("", input, -1))
        if convolution and input._version == version:
            pairs.append((convolution, name))

    for name, module in stage.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: leaves(name, output)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: enters(name, inputs[0])))
    # a clone, since activations may work in place
    output = stage(example).clone()
    for handle in handles:
        handle.remove()
    return output, pairs


def _replace(stage: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(stage.get_submodule(parent), child, module)
