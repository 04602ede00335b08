"""Cost of one training step: operations, memory and seconds, estimated without torch.

The encoder's share comes from the catalogue's measured table, the decoder's and the loss's from their channels. Memory
for the backward pass is within 25 % of the measured one (``tools/memory_estimate.py``, on the networks it lists).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seg_transfer.catalogue.encoders import EncoderEntry, StageKind
from seg_transfer.options.choices import Configuration
from seg_transfer.planning.fields import Triple

DeviceKind = Literal["cpu", "cuda", "mps"]

CORE_FLOPS = 75e9
"""Per second and CPU core in float32. Two cores with AVX-512 took 1.55 to 1.9 times as long in float32 as in bfloat16,
where ResNet-18 reached 245e9 in 2D and 2.5D by the count below, and 400e9 in 3D (bench/steps.py)."""
GPU_FLOPS: dict[str, float] = {"cuda": 10e12, "mps": 1e12}
"""Cautious guesses, not measured."""
BFLOAT16_GAIN = 1.7
"""Of that CPU, which has AMX."""
SMALLEST_GAIN = 1.1
"""Smaller gains do not justify the rounding of bfloat16."""
LOGIT_BYTES = 12.5
"""Per logit in the loss: logarithms, probabilities and targets in float32, and masks."""
PEAK = 1.4
"""Peak over saved memory: gradients of maps come on top."""
LEARNING_BYTES = 24
"""Per learning parameter: float32 weight, gradient, AdamW's two moments, EMA, and a bfloat16 copy with its gradient."""
FROZEN_BYTES = 10
"""Per frozen parameter: float32 weight and EMA, and a bfloat16 copy."""
BASE_BYTES = 700_000_000
"""A Python process with torch loaded."""
RGB = 3
"""Channels that the catalogue's table was measured with."""
BACKWARD = 3.0
"""A step is one forward pass and a backward pass of twice its operations."""


@dataclass(frozen=True)
class Machine:
    """The device that trains.

    Attributes:
        kind: Kind of device.
        cores: Available CPU cores; used only on a CPU.
        bfloat16_gain: How many times faster convolutions are in bfloat16 than in float32, measured on the device; 0: it
            has no instructions for it.
    """

    kind: DeviceKind
    cores: int = 2
    bfloat16_gain: float = BFLOAT16_GAIN

    @property
    def takes_bfloat16(self) -> bool:
        """Whether bfloat16 is enough faster to be used."""
        return self.bfloat16_gain > SMALLEST_GAIN

    @property
    def element_bytes(self) -> Literal[2, 4]:
        """Bytes of an element of a feature map in training."""
        return 2 if self.takes_bfloat16 else 4

    def seconds(self, flops: float) -> float:
        """Seconds of a training step with this number of operations.

        The measured gain only decides between the two precisions: it differs between measurements, and the same machine
        should give the same plan.
        """
        if self.kind == "cpu":
            return flops / (CORE_FLOPS * self.cores * (BFLOAT16_GAIN if self.takes_bfloat16 else 1.0))
        return flops / GPU_FLOPS[self.kind]


@dataclass(frozen=True)
class NetworkSize:
    """Properties of a network that determine its cost; see :class:`seg_transfer.planning.plan.ModelPlan`."""

    entry: EncoderEntry
    configuration: Configuration
    patch: Triple
    stages: int
    slice_strides: tuple[Literal[1, 2], ...]
    decoder_channels: tuple[int, ...]
    channels: int
    classes: int
    frozen: int = 0
    """Number of stages, from the finest, that never learn and save nothing for the backward pass."""
    element_bytes: Literal[2, 4] = 2
    """Of an element of a feature map: bfloat16 or float32."""

    @property
    def voxels(self) -> int:
        """Positions at full resolution that the network computes for one sample."""
        slices, u, v = self.patch
        return u * v * (slices if self.configuration == "3d" else 1)

    @property
    def folded(self) -> int:
        """Input channels of the first convolution."""
        return self.channels if self.configuration == "3d" else self.channels * self.patch[0]

    def depths(self) -> tuple[int, ...]:
        """Kernel depth along the slice axis per stage: 3 from the first stage with a stride along it."""
        if self.configuration != "3d":
            return (1,) * self.stages
        first = next((k for k, stride in enumerate(self.slice_strides) if stride == 2), self.stages - 1)
        return tuple(3 if stage >= first else 1 for stage in range(self.stages))

    def density(self) -> tuple[float, ...]:
        """Slices per input slice at each stage."""
        if self.configuration != "3d":
            return (1.0,) * self.stages
        return tuple(1 / math.prod(self.slice_strides[: stage + 1]) for stage in range(self.stages))

    def per_stage(self) -> tuple[tuple[int, StageKind, float], ...]:
        """Index of each stage, its kind, and the slices that enter it per input slice."""
        entering = (1.0, *self.density()[:-1])
        strides = self.slice_strides if self.configuration == "3d" else (1,) * self.stages
        kinds: list[StageKind] = [
            "flat" if depth == 1 else "strided" if stride == 2 else "deep"
            for depth, stride in zip(self.depths(), strides, strict=True)
        ]
        return tuple(zip(range(self.stages), kinds, entering, strict=True))


def step_flops(size: NetworkSize, batch: int) -> float:
    """Operations of one training step with all stages learning, weighted by the encoder's slowness."""
    slowness = size.entry.slowness[1 if size.configuration == "3d" else 0] or 1.0
    encoder = sum(size.entry.costs[kind].flops[stage] * entering for stage, kind, entering in size.per_stage())
    decoder = sum(2.0 * block.weights(size) * block.share for block in _blocks(size))
    return BACKWARD * batch * size.voxels * (slowness * encoder + decoder)


def step_memory(size: NetworkSize, batch: int) -> int:
    """Peak memory of a training step in bytes: saved maps, parameters with their state, and torch itself."""
    per_stage = [size.entry.costs[kind].parameters[stage] for stage, kind, _ in size.per_stage()]
    frozen = sum(per_stage[: size.frozen])
    state = FROZEN_BYTES * frozen + LEARNING_BYTES * (parameters(size) - frozen)
    return int(PEAK * saved_bytes(size, batch) + state + BASE_BYTES)


def saved_bytes(size: NetworkSize, batch: int) -> float:
    """Bytes that one training step saves for its backward pass, without weights.

    Learning stages save what the catalogue's table says. Each decoder block saves its joined input and two maps per
    convolution; so does the block on the raw input.
    """
    elements = 1.0 * size.folded
    for stage, kind, entering in size.per_stage():
        if stage == size.frozen:
            elements += size.entry.costs[kind].saved_as_lowest[stage] * entering
        elif stage > size.frozen:
            elements += size.entry.costs[kind].saved_elements[stage] * entering
    if size.frozen == 0:
        elements += size.folded - RGB
    logits = 0.0
    for block in _blocks(size):
        elements += block.share * (block.inputs + 4 * block.width)
        logits += size.classes * (block.share if block.stage > 0 else 1.0)
        if block.stage == 0:
            elements += block.share * 2 * block.width
    return batch * size.voxels * (size.element_bytes * elements + LOGIT_BYTES * logits)


def parameters(size: NetworkSize) -> int:
    """Parameters of the network."""
    encoder = sum(size.entry.costs[kind].parameters[stage] for stage, kind, _ in size.per_stage())
    return encoder + sum(block.weights(size) for block in _blocks(size))


@dataclass(frozen=True)
class _Block:
    """One decoder block: stage, input and output channels, kernel depth, and share of full resolution's positions."""

    stage: int
    inputs: int
    width: int
    depth: int
    share: float

    def weights(self, size: NetworkSize) -> int:
        """Weights of the block, its head and, at stage 0, the convolution on the raw input."""
        kernel = 9 * self.depth
        total = kernel * self.width * (self.inputs + self.width)
        if self.stage > 0:
            return total + self.width * size.classes
        voxels = round(1 / self.share)
        return total + kernel * self.width * voxels * (size.folded + size.classes)


def _blocks(size: NetworkSize) -> Sequence[_Block]:
    widths = size.decoder_channels
    blocks = []
    for stage, (width, depth, density) in enumerate(zip(widths, size.depths(), size.density(), strict=True)):
        inputs = size.entry.channels[stage] + (widths[stage + 1] if stage + 1 < len(widths) else 0)
        share = density / size.entry.strides[stage] ** 2
        blocks.append(_Block(stage, inputs + (width if stage == 0 else 0), width, depth, share))
    return blocks
