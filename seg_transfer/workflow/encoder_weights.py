"""The encoders of the catalogue, and their ImageNet weights for a machine without a network; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seg_transfer.catalogue.encoders import BUNDLED, ENCODERS, EncoderEntry, imagenet_cached
from seg_transfer.options.calls import takes
from seg_transfer.options.other_options import FetchOptions
from seg_transfer.transfer.fetch import Fetched, fetch, is_recorded

WeightsSource = Literal["bundled", "fetched", "cached"]


@dataclass(frozen=True)
class EncoderStatus:
    """An encoder, and its weights on this machine.

    Attributes:
        entry: The encoder's entry in the catalogue.
        weights: ``bundled``: weights come with the package; ``fetched``: the ImageNet weights are in the cache with
            their sha256 on record; ``cached``: another tool put them into the cache, without a record.
    """

    entry: EncoderEntry
    weights: tuple[WeightsSource, ...]


def encoders() -> list[EncoderStatus]:
    """The catalogue's encoders, and their weights on this machine; makes no connection."""
    return [EncoderStatus(entry, _local_weights(entry)) for entry in ENCODERS.values()]


@takes(FetchOptions)
def fetch_encoders(options: FetchOptions) -> list[Fetched]:
    """Download the ImageNet weights of encoders, and record the sha256 of each.

    They go into the usual cache (the hub's, or torch's for weights of torchvision), where ``--weights imagenet`` and
    ``auto`` find them. Weights that are cached already are only checked. A copy on another machine is given as
    ``--weights FILE``.

    Raises:
        UserError: If a name is unknown, or weights cannot be fetched.
    """
    return fetch(options.names, options.to)


def _local_weights(entry: EncoderEntry) -> tuple[WeightsSource, ...]:
    sources: list[WeightsSource] = ["bundled"] if entry.name in BUNDLED else []
    if imagenet_cached(entry.name):
        sources.append("fetched" if is_recorded(entry) else "cached")
    return tuple(sources)
