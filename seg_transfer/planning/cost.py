"""What one training step of a network costs: operations, memory and seconds, estimated without torch.

The encoder's share comes from the catalogue's measured table, the decoder's and the loss's from their channels.
Estimates, not promises: they choose between patches and batch sizes, and tell the user what to expect. What the
backward pass keeps is within 25 % of the truth (``python tools/memory_estimate.py``, on the networks it lists).
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
"""Per second and CPU core in float32: two cores with AVX-512 took 1.55 to 1.9 times as long in float32 as in bfloat16,
where ResNet-18 reached 245e9 in 2D and 2.5D by the count below, and 400e9 in 3D (bench/steps.py)."""
GPU_FLOPS: dict[str, float] = {"cuda": 10e12, "mps": 1e12}
"""Cautious guesses: no GPU was at hand."""
BFLOAT16_GAIN = 1.7
"""Of that CPU, which has AMX."""
FEWEST_GAIN = 1.1
"""Below, bfloat16 is not worth its rounding."""
LOGIT_BYTES = 12.5
"""Per logit, by the loss: logarithms, probabilities and targets in float32, and masks."""
PEAK = 1.4
"""Gradients of maps, at the peak, come on top of what the forward pass has kept."""
LEARNING_BYTES = 24
"""Per parameter that learns: float32 weight, gradient, AdamW's two moments, the average, and a bfloat16 copy with its
gradient."""
FROZEN_BYTES = 10
"""Per parameter that does not: float32 weight and average, and the copy."""
BASE_BYTES = 700_000_000
"""A Python process with torch loaded."""
RGB = 3
"""Channels that the catalogue's table was measured with."""
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

    @property
    def element_bytes(self) -> Literal[2, 4]:
        """Of a map's element, as it trains."""
        return 2 if self.takes_bfloat16 else 4

    def seconds(self, flops: float) -> float:
        """Seconds that a training step of so many operations takes.

        The gain itself does not enter, only whether there is one: it is measured anew each time, and a plan should come
        out the same on the same machine.
        """
        if self.kind == "cpu":
            return flops / (CORE_FLOPS * self.cores * (BFLOAT16_GAIN if self.takes_bfloat16 else 1.0))
        return flops / GPU_FLOPS[self.kind]


@dataclass(frozen=True)
class NetworkSize:
    """What of a model decides its cost; see :class:`seg_transfer.planning.plan.ModelPlan` for the fields."""

    entry: EncoderEntry
    configuration: Configuration
    patch: Triple
    stages: int
    slice_strides: tuple[Literal[1, 2], ...]
    decoder_channels: tuple[int, ...]
    channels: int
    classes: int
    frozen: int = 0
    """Stages that never learn, from the finest: they keep nothing for a backward pass."""
    element_bytes: Literal[2, 4] = 2
    """Of a map's element: bfloat16 or float32."""

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
        """Kernel depth along the slice axis per stage: 3 from the first stage on that strides along it."""
        if self.configuration != "3d":
            return (1,) * self.stages
        first = next((k for k, stride in enumerate(self.slice_strides) if stride == 2), self.stages - 1)
        return tuple(3 if stage >= first else 1 for stage in range(self.stages))

    def density(self) -> tuple[float, ...]:
        """Slices that are left per input slice at each stage."""
        if self.configuration != "3d":
            return (1.0,) * self.stages
        return tuple(1 / math.prod(self.slice_strides[: stage + 1]) for stage in range(self.stages))

    def per_stage(self) -> tuple[tuple[int, StageKind, float], ...]:
        """Each stage with its kind and the slices that enter it per input slice."""
        entering = (1.0, *self.density()[:-1])
        strides = self.slice_strides if self.configuration == "3d" else (1,) * self.stages
        kinds: list[StageKind] = [
            "flat" if depth == 1 else "strided" if stride == 2 else "deep"
            for depth, stride in zip(self.depths(), strides, strict=True)
        ]
        return tuple(zip(range(self.stages), kinds, entering, strict=True))


def step_flops(size: NetworkSize, batch: int) -> float:
    """Operations of one training step with everything learning, those of slow encoders counted as that many more."""
    slowness = size.entry.slowness[1 if size.configuration == "3d" else 0] or 1.0
    encoder = sum(size.entry.costs[kind].flops[stage] * entering for stage, kind, entering in size.per_stage())
    decoder = sum(2.0 * block.weights(size) * block.share for block in _blocks(size))
    return BACKWARD * batch * size.voxels * (slowness * encoder + decoder)


def step_memory(size: NetworkSize, batch: int) -> int:
    """Bytes at the peak of a training step: what the backward pass needs, parameters with their state, torch itself."""
    per_stage = [size.entry.costs[kind].parameters[stage] for stage, kind, _ in size.per_stage()]
    frozen = sum(per_stage[: size.frozen])
    state = FROZEN_BYTES * frozen + LEARNING_BYTES * (parameters(size) - frozen)
    return int(PEAK * saved_bytes(size, batch) + state + BASE_BYTES)


def saved_bytes(size: NetworkSize, batch: int) -> float:
    """Bytes that one training step keeps for its backward pass; no weights, no copies of them.

    Stages that learn keep what the catalogue's table says. Each decoder block keeps its joined input and two maps per
    convolution, the raw block the same.
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
    """One decoder block: its stage, channels in and out, kernel depth, and its share of full resolution's positions."""

    stage: int
    inputs: int
    width: int
    depth: int
    share: float

    def weights(self, size: NetworkSize) -> int:
        """Weights of the block, its head and, at stage 0, of the convolution on the raw input."""
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
