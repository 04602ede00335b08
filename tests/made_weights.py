"""A file of ResNet-18 weights, for tests whose expectations are those of its layers; it has learned nothing."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from seg_transfer.planning.plan import Weights


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="segtl-tests-")


@cache
def resnet18_weights() -> Weights:
    """Weights of timm's ResNet-18 with random values, in float16 as the bundled ones are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = timm.create_model("resnet18", pretrained=False).state_dict()
    generator = torch.Generator().manual_seed(3)
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif name.endswith("running_mean"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / 10)
    path = Path(_folder().name) / "resnet18.safetensors"
    save_file({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, path)
    return Weights(source="file", path=str(path))
