"""What one training step of a network costs: operations, memory and seconds, estimated without torch.

The encoder's share comes from the catalogue's measured table, the decoder's from its channels. Estimates, not promises:
they choose between patches and batch sizes, and tell the user what to expect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seg_transfer.catalogue import EncoderEntry
from seg_transfer.planning.plan import Triple

Configuration = Literal["2d", "2.5d", "3d"]
DeviceKind = Literal["cpu", "cuda", "mps"]

CORE_FLOPS = 75e9
"""Per second and CPU core in float32: two cores with AVX-512 took 1.55 to 1.9 times as long in float32 as in bfloat16,
where ResNet-18 reached 245e9 in 2D and 2.5D by the count below, and 400e9 in 3D (bench/steps.py)."""
GPU_FLOPS: dict[str, float] = {"cuda": 10e12, "mps": 1e12}
"""Cautious guesses: no GPU was at hand."""
BFLOAT16_GAIN = 1.7
"""Of that CPU, which has AMX."""
FEWEST_GAIN = 1.1
"""Below, bfloat16 is not worth its rounding."""
BYTES_PER_ELEMENT = 3.0
"""bfloat16 takes 2; measured on five networks, tensors kept for the backward pass come to 1.9 to 2.4 bytes per element
of the count below, and the gradients at the peak come on top."""
BYTES_PER_PARAMETER = 24
"""float32 weights, gradients, AdamW's two moments, the average, and a bfloat16 copy with its gradient."""
LOGIT_COPIES = 8
"""Full-resolution maps per class that the loss keeps: logits, logarithms, probabilities and targets in float32."""
BASE_BYTES = 700_000_000
"""A Python process with torch loaded."""
BACKWARD = 3.0
"""A step is one forward pass and a backward pass of twice its operations."""


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        kind: Of device.
        cores: CPU cores at hand; they count only where the CPU trains.
        bfloat16_gain: How many times faster convolutions are in bfloat16 than in float32, measured on the device.
    """

    kind: DeviceKind
    cores: int = 2
    bfloat16_gain: float = BFLOAT16_GAIN

    @property
    def takes_bfloat16(self) -> bool:
        """Whether bfloat16 is worth it."""
        return self.bfloat16_gain > FEWEST_GAIN

    def seconds(self, flops: float) -> float:
        """Seconds that a training step of so many operations takes.

        The gain itself does not enter, only whether there is one: it is measured anew each time, and a plan should come
        out the same on the same machine.
        """
        if self.kind == "cpu":
            return flops / (CORE_FLOPS * self.cores * (BFLOAT16_GAIN if self.takes_bfloat16 else 1.0))
        return flops / GPU_FLOPS[self.kind]


@dataclass(frozen=True)
class Shape:
    """What of a model decides its cost; see :class:`seg_transfer.planning.plan.ModelPlan` for the fields."""

    entry: EncoderEntry
    configuration: Configuration
    patch: Triple
    stages: int
    slice_strides: tuple[Literal[1, 2], ...]
    decoder_channels: tuple[int, ...]
    channels: int
    classes: int

    @property
    def voxels(self) -> int:
        """Positions at full resolution that the network computes for one sample."""
        slices, u, v = self.patch
        return u * v * (slices if self.configuration == "3d" else 1)

    @property
    def folded(self) -> int:
        """Channels that the first convolution reads."""
        return self.channels if self.configuration == "3d" else self.channels * self.patch[0]

    def depths(self) -> tuple[int, ...]:
        """Kernel depth along the slice axis per level: 3 from the first level on that strides along it."""
        if self.configuration != "3d":
            return (1,) * self.stages
        first = next((k for k, stride in enumerate(self.slice_strides) if stride == 2), self.stages - 1)
        return tuple(3 if level >= first else 1 for level in range(self.stages))

    def density(self) -> tuple[float, ...]:
        """Slices that are left per input slice at each level."""
        if self.configuration != "3d":
            return (1.0,) * self.stages
        return tuple(1 / math.prod(self.slice_strides[: level + 1]) for level in range(self.stages))


def step_flops(shape: Shape, batch: int) -> float:
    """Operations of one training step with everything learning."""
    encoder = sum(
        flops * depth * density
        for flops, depth, density in zip(shape.entry.flops, shape.depths(), shape.density(), strict=False)
    )
    decoder = sum(2.0 * block.weights(shape) * block.share for block in _blocks(shape))
    return BACKWARD * batch * shape.voxels * (encoder + decoder)


def step_memory(shape: Shape, batch: int) -> int:
    """Bytes at the peak of a training step: what the backward pass needs, parameters with their state, torch itself."""
    elements = 2.0 * shape.folded + LOGIT_COPIES * shape.classes
    elements += sum(
        saved * density for saved, density in zip(shape.entry.saved_elements, shape.density(), strict=False)
    )
    elements += sum(block.share * (block.inputs + 4 * block.width + 2 * shape.classes) for block in _blocks(shape))
    activations = BYTES_PER_ELEMENT * batch * shape.voxels * elements
    return int(activations + BYTES_PER_PARAMETER * parameters(shape) + BASE_BYTES)


def parameters(shape: Shape) -> int:
    """Parameters of the network."""
    encoder = sum(count * depth for count, depth in zip(shape.entry.parameters_per_level, shape.depths(), strict=False))
    return encoder + sum(block.weights(shape) for block in _blocks(shape))


@dataclass(frozen=True)
class _Block:
    """One decoder block: its level, channels in and out, kernel depth, and its share of full resolution's positions."""

    level: int
    inputs: int
    width: int
    depth: int
    share: float

    def weights(self, shape: Shape) -> int:
        """Weights of the block, its head and, at level 0, of the convolution on the raw input."""
        kernel = 9 * self.depth
        total = kernel * self.width * (self.inputs + self.width)
        if self.level > 0:
            return total + self.width * shape.classes
        voxels = round(1 / self.share)
        return total + kernel * self.width * voxels * (shape.folded + shape.classes)


def _blocks(shape: Shape) -> Sequence[_Block]:
    widths = shape.decoder_channels
    blocks = []
    for level, (width, depth, density) in enumerate(zip(widths, shape.depths(), shape.density(), strict=True)):
        inputs = shape.entry.channels[level] + (widths[level + 1] if level + 1 < len(widths) else 0)
        share = density / shape.entry.strides[level] ** 2
        blocks.append(_Block(level, inputs + (width if level == 0 else 0), width, depth, share))
    return blocks
