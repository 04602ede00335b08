"""Patch, number of encoder stages, strides along the slice axis, and batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from seg_transfer.catalogue.encoders import EncoderEntry
from seg_transfer.errors import UserError
from seg_transfer.options.choices import Configuration
from seg_transfer.planning.cost import Machine, NetworkSize, step_flops, step_memory
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.planning.rules.decoder import decoder_channels, is_narrow
from seg_transfer.util.units import bytes_text, seconds_text

DEEPEST_SIDE = 4
"""Smallest side of the map at the deepest stage."""
LARGEST_SIDE: dict[Configuration, int] = {"2d": 512, "2.5d": 512, "3d": 256}
SMALLEST_BATCH: dict[Configuration, int] = {"2d": 4, "2.5d": 4, "3d": 2}
LARGEST_BATCH: dict[Configuration, int] = {"2d": 48, "2.5d": 48, "3d": 8}
BATCH_SHARE = 0.05
"""A batch holds at most this share of the data set's voxels (nnU-Net)."""


@dataclass(frozen=True)
class Architecture:
    """The part of the network that is decided before its patch.

    Attributes:
        entry: The encoder.
        stages: Largest number of its stages in use.
        channels: Image channels.
        classes: Outputs of the network: classes with the background, or regions.
    """

    entry: EncoderEntry
    stages: int
    channels: int
    classes: int


@dataclass(frozen=True)
class Limits:
    """Upper limits of a training step.

    Attributes:
        machine: The device.
        memory_bytes: Memory.
        step_seconds: Seconds per step; None where time does not limit the patch (GPU).
    """

    machine: Machine
    memory_bytes: int
    step_seconds: float | None


def stack(ratio: float, slices: float) -> tuple[int, str]:
    """Choose how many slices a 2.5D network reads: fewer where they are farther apart.

    Args:
        ratio: Anisotropy of the network's grid.
        slices: Median number of slices.
    """
    largest_odd = max(3, int(slices) - (int(slices) + 1) % 2)
    count = min(3 if ratio > 3 else 5 if ratio > 1.5 else 7, largest_odd)
    return count, (
        f"{count} slices: anisotropy {ratio:.2g} (7 up to 1.5, 5 up to 3, then 3), and the median case has {slices:g}"
    )


def most_stages(shape: tuple[float, float, float], entry: EncoderEntry) -> tuple[int, str]:
    """Choose the largest number of encoder stages for cases of this size: the deepest map is at least 4 wide.

    Args:
        shape: Median shape (slice, u, v) on the network's grid.
        entry: The encoder.
    """
    shorter = min(shape[1:])
    available = len(entry.strides)
    stages = max(1, sum(math.ceil(shorter / stride) >= DEEPEST_SIDE for stride in entry.strides))
    side = math.ceil(shorter / entry.strides[stages - 1])
    reason = f"{stages} of {available}: stride {entry.strides[stages - 1]} leaves {side} positions of {shorter:g}"
    if stages < available:
        reason += f", the next would leave {math.ceil(shorter / entry.strides[stages])} (at least {DEEPEST_SIDE})"
    return stages, reason


def slice_strides(
    spacing: Spacing, slices: float, in_plane_strides: Sequence[int]
) -> tuple[tuple[Literal[1, 2], ...], str]:
    """Choose the stride along the slice axis at each stage of a 3D encoder.

    The stride is 2 where that brings the ratio of the stage's slice and in-plane spacings closer to 1 and leaves at
    least 4 slices.

    Args:
        spacing: Spacing of the network's grid (slice, u, v).
        slices: Median number of slices.
        in_plane_strides: In-plane stride of each stage in use, relative to the input.
    """
    step, remaining = spacing[0], slices
    strides: list[Literal[1, 2]] = []
    for stride in in_plane_strides:
        in_plane = stride * math.sqrt(spacing[1] * spacing[2])
        if in_plane > math.sqrt(2) * step and math.ceil(remaining / 2) >= DEEPEST_SIDE:
            strides.append(2)
            step, remaining = step * 2, remaining / 2
        else:
            strides.append(1)
    return tuple(strides), (
        f"stride 2 where that makes spacings more equal: {spacing[0]:.4g} against {spacing[1]:.4g} at full resolution "
        f"become {step:.4g} against {in_plane:.4g} at the deepest stage, with {math.ceil(remaining)} slices"
    )


def fit_patch(
    shape: tuple[float, float, float],
    spacing: Spacing,
    architecture: Architecture,
    *,
    configuration: Configuration,
    limits: Limits,
) -> tuple[NetworkSize, str]:
    """Choose the patch, and fewer stages where even their smallest patch exceeds the limits.

    It starts with the median case, rounded up to a multiple of every stage's stride, and shrinks along the axis of
    which it covers the largest share (nnU-Net) until the smallest batch is within the limits. On a CPU the decoder
    becomes narrow (:mod:`~seg_transfer.planning.rules.decoder`) if the patch had to shrink, and in 3D if the smallest
    batch takes more than half of the time that a step should take.

    Args:
        shape: Median shape (slice, u, v) on the network's grid.
        spacing: Spacing (slice, u, v) of that grid.
        architecture: Encoder, stages, channels and classes.
        configuration: 2D, 2.5D or 3D.
        limits: Memory and time of a step.

    Raises:
        UserError: If not even the smallest patch fits into the memory.
    """
    batch, entry = SMALLEST_BATCH[configuration], architecture.entry
    axes = (0, 1, 2) if configuration == "3d" else (1, 2)  # 2D and 2.5D have a fixed number of slices
    for count in range(architecture.stages, 0, -1):
        strides, _ = slice_strides(spacing, shape[0], entry.strides[:count]) if configuration == "3d" else ((), "")
        widths, _ = decoder_channels(entry.strides[:count], limits.machine.kind)
        steps = (math.prod(strides), entry.strides[count - 1], entry.strides[count - 1])
        largest = _largest_patch(shape, steps, configuration)
        floor = tuple(min(size, DEEPEST_SIDE * step) for size, step in zip(largest, steps, strict=True))
        patch = largest
        while True:
            network = NetworkSize(
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
            too_large = exceeds(network, batch, limits)
            shrinkable = [axis for axis in axes if patch[axis] > floor[axis]]
            if not too_large or not shrinkable:
                break
            axis = max(shrinkable, key=lambda axis: (patch[axis] / shape[axis], patch[axis]))
            patch = tuple(size - steps[axis] * (index == axis) for index, size in enumerate(patch))  # type: ignore
        if not too_large:
            break
    if step_memory(network, batch) > limits.memory_bytes:
        raise UserError(
            f"{bytes_text(limits.memory_bytes)} are too little: the smallest patch {network.patch} in {configuration} "
            f"with {entry.name} takes about {bytes_text(step_memory(network, batch))}",
            where="--memory",
            hint="allow more memory, or choose a smaller encoder or --config 2d",
        )
    reason = _patch_reason(network, largest, shape, batch, limits)
    if too_large:
        reason += "; even the smallest patch is slower"
    if limits.step_seconds is not None and (network.patch != largest or is_slow_volume(network, batch, limits)):
        widths, _ = decoder_channels(entry.strides[: network.stages], limits.machine.kind, narrow=True)
        network = replace(network, decoder_channels=widths)
        seconds = limits.machine.seconds(step_flops(network, batch))
        reason += f"; about {seconds_text(seconds)} with half of the decoder's channels"
    return network, reason


def is_slow_volume(network: NetworkSize, batch: int, limits: Limits) -> bool:
    """Whether a 3D step takes more than half of the time that it should take."""
    assert limits.step_seconds is not None
    seconds = limits.machine.seconds(step_flops(network, batch))
    return network.configuration == "3d" and seconds > limits.step_seconds / 2


def batch_size(network: NetworkSize, limits: Limits, *, target_seconds: float, total_voxels: float) -> tuple[int, str]:
    """Choose the batch: as large as memory, time and the data set allow.

    Args:
        network: The network and its patch.
        limits: Memory of a step, and the device.
        target_seconds: Seconds that a step should take on a CPU.
        total_voxels: Voxels of all cases together on the network's grid.
    """
    smallest, largest = SMALLEST_BATCH[network.configuration], LARGEST_BATCH[network.configuration]
    per_sample = limits.machine.seconds(step_flops(network, 1))
    memory_per_sample = step_memory(network, 2) - step_memory(network, 1)
    bounds = {
        f"at most {largest} in {network.configuration}": largest,
        f"{bytes_text(limits.memory_bytes)} of memory at about {bytes_text(memory_per_sample)} a sample": int(
            (limits.memory_bytes - step_memory(network, 0)) / memory_per_sample
        ),
        f"{BATCH_SHARE:.0%} of the data set's {total_voxels:.3g} voxels": int(
            BATCH_SHARE * total_voxels / network.voxels
        ),
    }
    strides = network.entry.strides[: network.stages]
    if is_narrow(network.decoder_channels, strides, limits.machine.kind):
        bounds["with half of the decoder's channels, more steps are worth more"] = smallest
    elif limits.machine.kind == "cpu":
        bounds[f"steps of about {seconds_text(target_seconds)} at {per_sample:.2g} s a sample"] = int(
            target_seconds / per_sample
        )
    reason, batch = min(bounds.items(), key=lambda item: item[1])
    if batch < smallest:
        return smallest, f"the smallest for {network.configuration}; {reason} would allow {batch}"
    return batch, reason


def _largest_patch(shape: tuple[float, float, float], steps: Triple, configuration: Configuration) -> Triple:
    """The median case rounded up to multiples of the steps, within the largest side; 2D and 2.5D keep their slices."""
    limit = LARGEST_SIDE[configuration]
    sizes = [min(math.ceil(size / step), limit // step) * step for size, step in zip(shape, steps, strict=True)]
    return (sizes[0] if configuration == "3d" else round(shape[0]), sizes[1], sizes[2])


def exceeds(network: NetworkSize, batch: int, limits: Limits) -> bool:
    """Whether a step takes more memory or time than it should."""
    if step_memory(network, batch) > limits.memory_bytes:
        return True
    seconds = limits.machine.seconds(step_flops(network, batch))
    return limits.step_seconds is not None and seconds > limits.step_seconds


def _patch_reason(
    network: NetworkSize, largest: Triple, shape: tuple[float, float, float], batch: int, limits: Limits
) -> str:
    median = " x ".join(f"{size:g}" for size in shape)
    steps = f"multiples of {network.entry.strides[network.stages - 1]} in-plane"
    if network.patch == largest:
        limit = LARGEST_SIDE[network.configuration]
        covered = all(size >= side for size, side in zip(largest, shape, strict=True))
        reach = "covers" if covered else f"at most {limit} wide in {network.configuration}, of"
        return f"{reach} the median case of {median} voxels on the network's grid, in {steps}"
    memory = bytes_text(step_memory(network, batch))
    seconds = seconds_text(limits.machine.seconds(step_flops(network, batch)))
    bound = bytes_text(limits.memory_bytes)
    if limits.step_seconds is not None:
        bound += f" and {seconds_text(limits.step_seconds)}"
    return (
        f"of the median case ({median} voxels on the network's grid), in {steps}: {batch} patches take about "
        f"{memory} and {seconds} a step (limit {bound})"
    )
