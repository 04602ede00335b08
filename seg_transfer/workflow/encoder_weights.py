"""The encoders that there are, and their ImageNet weights for a machine without a network; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seg_transfer.catalogue.encoders import BUNDLED_ENCODER, ENCODERS, EncoderEntry, imagenet_cached
from seg_transfer.options.calls import takes
from seg_transfer.options.other_options import FetchOptions
from seg_transfer.transfer.fetch import Fetched, fetch, is_recorded


@dataclass(frozen=True)
class EncoderStatus:
    """An encoder, and which of its weights are on this machine.

    Attributes:
        entry: What the catalogue says.
        weights: ``bundled``: some come with the package; ``fetched``: the ImageNet weights are in the cache with
            their sha256 on record; ``cached``: they are there, from another tool, without a record. Empty: none.
    """

    entry: EncoderEntry
    weights: tuple[Literal["bundled", "fetched", "cached"], ...]


def encoders() -> list[EncoderStatus]:
    """The catalogue's encoders, and which weights are on this machine; never touches the network."""
    return [EncoderStatus(known, _here(known)) for known in ENCODERS.values()]


@takes(FetchOptions)
def fetch_encoders(options: FetchOptions) -> list[Fetched]:
    """Bring the ImageNet weights of encoders onto this machine, with the sha256 of each on record.

    They go into the usual cache (the hub's, or torch's for weights of torchvision), where ``--weights imagenet`` and
    ``auto`` find them. What is there already is only checked. A copy on another machine is given as ``--weights FILE``.

    Raises:
        UserError: If a name is unknown, or weights cannot be fetched.
    """
    return fetch(options.names, options.to)


def _here(known: EncoderEntry) -> tuple[Literal["bundled", "fetched", "cached"], ...]:
    here: list[Literal["bundled", "fetched", "cached"]] = ["bundled"] if known.name == BUNDLED_ENCODER else []
    if imagenet_cached(known.name):
        here.append("fetched" if is_recorded(known) else "cached")
    return tuple(here)
