"""How large a patch the network reads, over how many stages it shrinks, and how many patches make a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.errors import UserError
from seg_transfer.options.choices import Configuration
from seg_transfer.planning.cost import (
    Machine,
    NetworkSize,
    step_flops,
    step_memory,
)
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.util.units import bytes_text, seconds_text

DEEPEST_SIDE = 4
BUNDLED_STAGES = 4
"""The bundled encoder was trained at 64 x 64: its fifth stage saw only 2 x 2 maps. In five CPU minutes it gained
nothing on cells (docs/log.md)."""
LARGEST_SIDE: dict[Configuration, int] = {"2d": 512, "2.5d": 512, "3d": 256}
SMALLEST_BATCH: dict[Configuration, int] = {"2d": 4, "2.5d": 4, "3d": 2}
LARGEST_BATCH: dict[Configuration, int] = {"2d": 48, "2.5d": 48, "3d": 8}
BATCH_SHARE = 0.05
"""A batch holds at most this share of the data set's voxels (nnU-Net): more would repeat itself within a step."""


@dataclass(frozen=True)
class Architecture:
    """What of the network is decided before its patch.

    Attributes:
        entry: The encoder.
        stages: Most stages of it in use.
        channels: Image channels.
        classes: Classes, background included.
    """

    entry: EncoderEntry
    stages: int
    channels: int
    classes: int


@dataclass(frozen=True)
class Limits:
    """What a training step may take.

    Attributes:
        machine: What it runs on.
        memory_bytes: Most memory.
        step_seconds: Most seconds per step; None where time does not limit the patch (GPU).
    """

    machine: Machine
    memory_bytes: int
    step_seconds: float | None


def stack(ratio: float, slices: float) -> tuple[int, str]:
    """Choose how many slices a 2.5D network reads: the farther apart they lie, the less the outer ones tell.

    Args:
        ratio: Anisotropy of the network's grid.
        slices: Median number of slices.
    """
    wanted = 3 if ratio > 3 else 5 if ratio > 1.5 else 7
    most = max(3, int(slices) - (int(slices) + 1) % 2)
    count = min(wanted, most)
    return count, (
        f"{count} slices: anisotropy {ratio:.2g} (7 up to 1.5, 5 up to 3, then 3), and the median case has {slices:g}"
    )


def most_stages(shape: tuple[float, float, float], entry: EncoderEntry, *, bundled: bool) -> tuple[int, str]:
    """Choose how many stages of the encoder a case of this size bears: the deepest map stays at least 4 wide.

    Args:
        shape: Median shape (slice, u, v) on the network's grid.
        entry: The encoder.
        bundled: Whether its weights are the bundled ones.
    """
    shorter = min(shape[1:])
    most = len(entry.strides)
    stages = max(1, sum(math.ceil(shorter / stride) >= DEEPEST_SIDE for stride in entry.strides))
    side = math.ceil(shorter / entry.strides[stages - 1])
    reason = f"{stages} of {most}: stride {entry.strides[stages - 1]} leaves {side} positions of {shorter:g}"
    if stages < most:
        reason += f", the next would leave {math.ceil(shorter / entry.strides[stages])} (needs {DEEPEST_SIDE})"
    if bundled and stages > BUNDLED_STAGES:
        stages = BUNDLED_STAGES
        reason = f"{stages} of {most}: the bundled weights' fifth stage was trained on 2 x 2 maps and carries little"
    return stages, reason


def slice_strides(
    spacing: Spacing, slices: float, in_plane_strides: Sequence[int]
) -> tuple[tuple[Literal[1, 2], ...], str]:
    """Choose the stride along the slice axis at each stage of a 3D encoder.

    A stage strides along it where that brings the stage's slice and in-plane spacings closer together, as a ratio, and
    at least 4 slices are left.

    Args:
        spacing: Of the network's grid (slice, u, v).
        slices: Median number of slices.
        in_plane_strides: Of each stage in use relative to the input.
    """
    step, left = spacing[0], slices
    strides: list[Literal[1, 2]] = []
    for stride in in_plane_strides:
        in_plane = stride * math.sqrt(spacing[1] * spacing[2])
        if in_plane > math.sqrt(2) * step and math.ceil(left / 2) >= DEEPEST_SIDE:
            strides.append(2)
            step, left = step * 2, left / 2
        else:
            strides.append(1)
    return tuple(strides), (
        f"strides along the slices where that evens out spacings: {spacing[0]:.4g} against {spacing[1]:.4g} at full "
        f"resolution become {step:.4g} against {in_plane:.4g} at the deepest stage, {math.ceil(left)} slices are left"
    )


def fit(
    shape: tuple[float, float, float],
    spacing: Spacing,
    architecture: Architecture,
    *,
    configuration: Configuration,
    limits: Limits,
) -> tuple[NetworkSize, str]:
    """Choose the patch, and fewer stages where even the smallest patch for that many is too much.

    It starts with the median case, rounded up so that every stage halves evenly, and gives up the axis of which it
    covers most (nnU-Net) until the smallest batch is within the limits.

    Args:
        shape: Median shape (slice, u, v) on the network's grid.
        spacing: Of that grid.
        architecture: Encoder, stages, channels and classes.
        configuration: 2D, 2.5D or 3D.
        limits: Memory and time of a step.

    Raises:
        UserError: If not even the smallest patch fits into the memory.
    """
    batch, entry = SMALLEST_BATCH[configuration], architecture.entry
    for count in range(architecture.stages, 0, -1):
        strides, _ = slice_strides(spacing, shape[0], entry.strides[:count]) if configuration == "3d" else ((), "")
        widths, _ = decoder_channels(entry.strides[:count], limits.machine.kind)
        along = math.prod(strides) if configuration == "3d" else 1
        steps = (along, entry.strides[count - 1], entry.strides[count - 1])
        whole = _whole(shape, steps, configuration)
        floor = tuple(min(size, DEEPEST_SIDE * step) for size, step in zip(whole, steps, strict=True))
        patch = whole
        while True:
            made = NetworkSize(
                entry,
                configuration,
                patch,
                count,
                strides,
                widths,
                architecture.channels,
                architecture.classes,
                element_bytes=limits.machine.element_bytes,
            )
            too_much = _too_much(made, batch, limits)
            shrinkable = [axis for axis in range(3) if patch[axis] > floor[axis] and _counts(axis, configuration)]
            if not too_much or not shrinkable:
                break
            axis = max(shrinkable, key=lambda axis: (patch[axis] / shape[axis], patch[axis]))
            patch = tuple(size - steps[axis] * (index == axis) for index, size in enumerate(patch))  # type: ignore
        if not too_much:
            return made, _patch_reason(made, whole, shape, batch, limits)
    if step_memory(made, batch) <= limits.memory_bytes:
        return made, _patch_reason(made, whole, shape, batch, limits) + "; not even the smallest patch is that fast"
    raise UserError(
        f"{bytes_text(limits.memory_bytes)} are too little: the smallest patch {made.patch} in {configuration} with "
        f"{entry.name} takes about {bytes_text(step_memory(made, batch))}",
        where="--memory",
        hint="allow more memory, or choose a smaller encoder or --config 2d",
    )


def batch_size(network: NetworkSize, limits: Limits, *, target_seconds: float, total_voxels: float) -> tuple[int, str]:
    """Choose the batch: as large as memory, time and the data set allow.

    Args:
        network: The network and its patch.
        limits: Memory of a step, and the device.
        target_seconds: Seconds that a step should take on a CPU.
        total_voxels: Voxels of all cases together on the network's grid.
    """
    least, most = SMALLEST_BATCH[network.configuration], LARGEST_BATCH[network.configuration]
    per_sample = limits.machine.seconds(step_flops(network, 1))
    memory_per_sample = step_memory(network, 2) - step_memory(network, 1)
    bounds = {
        f"at most {most} in {network.configuration}": most,
        f"{bytes_text(limits.memory_bytes)} of memory at about {bytes_text(memory_per_sample)} a sample": int(
            (limits.memory_bytes - step_memory(network, 0)) / memory_per_sample
        ),
        f"{BATCH_SHARE:.0%} of the data set's {total_voxels:.3g} voxels": int(
            BATCH_SHARE * total_voxels / network.voxels
        ),
    }
    if limits.machine.kind == "cpu":
        bounds[f"steps of about {seconds_text(target_seconds)} at {per_sample:.2g} s a sample"] = int(
            target_seconds / per_sample
        )
    reason, batch = min(bounds.items(), key=lambda item: item[1])
    if batch < least:
        return least, f"the smallest for {network.configuration}; {reason} would allow {batch}"
    return batch, reason


def _counts(axis: int, configuration: Configuration) -> bool:
    """Whether shrinking the patch along this axis makes a step cheaper: 2D and 2.5D have a fixed number of slices."""
    return axis > 0 or configuration == "3d"


def _whole(shape: tuple[float, float, float], steps: Triple, configuration: Configuration) -> Triple:
    """The median case rounded up to whole steps, within the largest patch; slices of 2D and 2.5D are set later."""
    limit = LARGEST_SIDE[configuration]
    sizes = [min(math.ceil(size / step), limit // step) * step for size, step in zip(shape, steps, strict=True)]
    return (sizes[0] if configuration == "3d" else round(shape[0]), sizes[1], sizes[2])


def _too_much(network: NetworkSize, batch: int, limits: Limits) -> bool:
    if step_memory(network, batch) > limits.memory_bytes:
        return True
    seconds = limits.machine.seconds(step_flops(network, batch))
    return limits.step_seconds is not None and seconds > limits.step_seconds


def _patch_reason(
    made: NetworkSize, whole: Triple, shape: tuple[float, float, float], batch: int, limits: Limits
) -> str:
    median = " x ".join(f"{size:g}" for size in shape)
    steps = f"multiples of {made.entry.strides[made.stages - 1]} in-plane"
    if made.patch == whole:
        limit = LARGEST_SIDE[made.configuration]
        covered = all(size >= side for size, side in zip(whole, shape, strict=True))
        reach = "covers" if covered else f"at most {limit} wide in {made.configuration}, of"
        return f"{reach} the median case of {median} voxels on the network's grid, in {steps}"
    memory = bytes_text(step_memory(made, batch))
    seconds = seconds_text(limits.machine.seconds(step_flops(made, batch)))
    bound = bytes_text(limits.memory_bytes)
    if limits.step_seconds is not None:
        bound += f" and {seconds_text(limits.step_seconds)}"
    return (
        f"of the median case ({median} voxels on the network's grid), in {steps}: {batch} such patches take about "
        f"{memory} and {seconds} a step (limit {bound})"
    )
