"""Resources of the planned training; given by the caller, because planning imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from seg_transfer.options.choices import Precision
from seg_transfer.planning.cost import Machine


@dataclass(frozen=True)
class Resources:
    """Device, memory, and access to weights.

    Attributes:
        machine: The device and its speed.
        memory_bytes: Largest memory of a training step.
        imagenet_cached: Whether the ImageNet weights of an encoder (by name) are in the local cache.
        offline: Whether downloads are forbidden.
        depthwise_gain: Measures how many times faster other gradients of depthwise convolutions are than torch's, for 2
            or 3 dimensions and a precision.
    """

    machine: Machine
    memory_bytes: int = 8_000_000_000
    imagenet_cached: Callable[[str], bool] = lambda _: False
    offline: bool = False
    depthwise_gain: Callable[[Literal[2, 3], Precision], float] = lambda *_: 1.0
