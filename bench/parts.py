"""The choices inside the network and the loop that docstrings speak of, each beside what it was chosen over.

    python bench/parts.py

One thread; forward and backward in bfloat16 and channels_last unless said otherwise; medians in milliseconds. Data are
random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional

from seg_transfer.network.blocks import InstanceNorm
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import load_stages

ROUNDS = 7
MAP = (4, 16, 40, 56, 40)
LAYOUT = torch.channels_last_3d


class TorchInstanceNorm(nn.InstanceNorm3d):
    """torch's own, and the way back into channels_last, which it leaves."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous(memory_format=LAYOUT)


class Linear(nn.Module):
    """Linear interpolation to twice the size."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="trilinear")


def seconds_to_import(module: str) -> float:
    """CPU seconds of a fresh process that has torch and imports a module."""
    program = "import torch, time; before = time.process_time(); import {}; print(time.process_time() - before)"
    done = subprocess.run([sys.executable, "-c", program.format(module)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def gathered_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Soft Dice loss whose intersection is a sum of the probabilities of the true classes."""
    probabilities = logits.softmax(dim=1)
    classes = logits.shape[1]
    flat = target.reshape(-1)
    chosen = probabilities.gather(1, target.unsqueeze(1)).reshape(-1)
    intersection = torch.zeros(classes).index_add(0, flat, chosen)
    sizes = probabilities.sum(dim=(0, *range(2, logits.ndim))) + torch.bincount(flat, minlength=classes)
    return 1 - (2 * intersection[1:] / sizes[1:]).mean()


def monai_dice(logits: Tensor, target: Tensor) -> Tensor:
    """MONAI's soft Dice loss of the probabilities against a mask per class."""
    wanted = torch.zeros_like(logits).scatter_(1, target.unsqueeze(1), 1.0)
    return DiceLoss(include_background=False, batch=True)(logits.softmax(dim=1), wanted)


def compare(title: str, ways: dict[str, Callable[[], object]]) -> None:
    """Time every way in turn, so that a busy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - start))
    print(f"{title:46} " + "  ".join(f"{name} {statistics.median(each[1:]):.0f}" for name, each in times.items()))


def there_and_back(module: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """One forward and backward pass."""
    module = module.to(memory_format=LAYOUT) if any(p.ndim == 5 for p in module.parameters()) else module
    x = torch.randn(shape).to(torch.bfloat16).contiguous(memory_format=LAYOUT).requires_grad_()

    def work() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = module(x)
        y.backward(torch.ones_like(y))

    return work


def loss(function: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> Callable[[], None]:
    """One forward and backward pass of a loss in float32."""
    logits = torch.randn(shape, requires_grad=True)
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    return lambda: function(logits, target).backward()


def update(*, fused: bool, parameters: int = 12_000_000) -> Callable[[], None]:
    """One step of AdamW."""
    weights = [nn.Parameter(torch.randn(parameters // 60)) for _ in range(60)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return torch.optim.AdamW(weights, fused=fused).step


def build(encoder: str, context: Callable[[], AbstractContextManager[object]]) -> None:
    """Build the stages of an encoder."""
    with context():
        load_stages("timm", encoder, 1)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    norms: dict[str, nn.Module] = {"sample by sample": InstanceNorm(16), "torch's": TorchInstanceNorm(16, affine=True)}
    compare(f"instance norm, {MAP}", {name: there_and_back(module, MAP) for name, module in norms.items()})
    groups = {f"{size} channels": nn.GroupNorm(16 // size, 16) for size in (16, 8, 2)}
    compare("group norm, groups of", {name: there_and_back(module, MAP) for name, module in groups.items()})
    half = (*MAP[:2], *(size // 2 for size in MAP[2:]))
    larger: dict[str, nn.Module] = {"linear": Linear(), "transposed convolution": nn.ConvTranspose3d(16, 16, 2, 2)}
    compare("to twice the size", {name: there_and_back(module, half) for name, module in larger.items()})
    for shape in ((4, 3, 40, 56, 40), (2, 9, 16, 192, 192)):
        compare(f"Dice loss, {shape}", {"MONAI": loss(monai_dice, shape), "gathered": loss(gathered_dice, shape)})
    for module in ("monai.losses", "seg_transfer.training.losses"):
        print(f"import {module} after torch: {seconds_to_import(module):.1f} CPU s")
    for name in ("tf_efficientnet_lite0", "resnet18", "convnext_tiny", "inception_v3"):
        ways = {"torch.device": lambda: torch.device("meta"), "on_meta": on_meta}
        compare(f"{name} without values", {way: partial(build, name, context) for way, context in ways.items()})
    compare("AdamW, 12 million parameters", {"fused": update(fused=True), "not": update(fused=False)})


if __name__ == "__main__":
    main()
