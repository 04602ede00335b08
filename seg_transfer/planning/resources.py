"""What the machine offers to the training that is planned; filled in by the caller, since planning loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from seg_transfer.planning.cost import Machine


def never_cached(_: str) -> bool:
    """No encoder's ImageNet weights are in the cache."""
    return False


@dataclass(frozen=True)
class Resources:
    """What there is to train with.

    Attributes:
        machine: The device and how fast it computes.
        memory_bytes: What a training step may take.
        imagenet_cached: Whether the ImageNet weights of an encoder (by name) are in the local cache.
        offline: Whether connections are forbidden: weights then have to be on this machine.
    """

    machine: Machine
    memory_bytes: int = 8_000_000_000
    imagenet_cached: Callable[[str], bool] = never_cached
    offline: bool = False
