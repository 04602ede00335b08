"""A patch that was decided elsewhere: the network is fitted to it, not the other way round."""

from __future__ import annotations

import math
from dataclasses import replace

from seg_transfer.errors import UserError
from seg_transfer.options.choices import Configuration
from seg_transfer.planning.cost import NetworkSize, step_memory
from seg_transfer.planning.fields import Spacing, Triple
from seg_transfer.planning.plan import LARGEST_PATCH
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.rules.patch import (
    SMALLEST_BATCH,
    Architecture,
    Limits,
    exceeds,
    is_slow_volume,
    slice_strides,
)
from seg_transfer.util.units import bytes_text


def given_patch(
    patch: Triple,
    why: str,
    spacing: Spacing,
    architecture: Architecture,
    *,
    configuration: Configuration,
    limits: Limits,
) -> tuple[NetworkSize, str]:
    """Fit the network to a patch. Its size is not changed: the network pads maps to whole strides.

    On a CPU the decoder becomes narrow where a step would take too long, as in
    :func:`~seg_transfer.planning.rules.patch.fit_patch`.

    Args:
        patch: The patch (slice, u, v).
        why: Where it is from.
        spacing: Spacing (slice, u, v) of the network's grid.
        architecture: Encoder, stages, channels and classes.
        configuration: 2D or 3D.
        limits: Memory and time of a step.

    Raises:
        UserError: If the smallest batch of this patch does not fit into the memory.
    """
    batch, entry = SMALLEST_BATCH[configuration], architecture.entry
    strides = entry.strides[: architecture.stages]
    depth, _ = slice_strides(spacing, patch[0], strides) if configuration == "3d" else ((), "")
    widths, _ = decoder_channels(strides, limits.machine.kind)
    network = NetworkSize(
        entry,
        configuration,
        patch,
        architecture.stages,
        depth,
        widths,
        architecture.channels,
        architecture.classes,
        element_bytes=limits.machine.element_bytes,
    )
    needed = step_memory(network, batch)
    if needed > limits.memory_bytes or math.prod(patch) > LARGEST_PATCH:
        what = f"{batch} patches of {' x '.join(map(str, patch))} with {entry.name} take about {bytes_text(needed)}"
        hint = "choose another configuration or a smaller --encoder, or allow more memory"
        raise UserError(f"{what}, {bytes_text(limits.memory_bytes)} are there", where="--memory", hint=hint)
    if limits.step_seconds is not None and (exceeds(network, batch, limits) or is_slow_volume(network, batch, limits)):
        narrow, _ = decoder_channels(strides, limits.machine.kind, narrow=True)
        network = replace(network, decoder_channels=narrow)
        why += "; slow on this CPU, so that the decoder has half of its channels"
    steps = (math.prod(depth), strides[-1], strides[-1])
    if padded := [size for size, step in zip(patch, steps, strict=True) if size % step]:
        multiples = " x ".join(map(str, steps))
        sizes = ", ".join(map(str, padded))
        why += f"; maps are padded inside the network, whose strides of {multiples} do not divide {sizes}"
    return network, why
