"""Which encoders exist, what they cost and where their ImageNet weights lie; no torch, no network.

The table beside this file is made by ``bench/encoder_table.py`` from timm's own records and from measurement.
The weights of resnet18, resnet50 and vgg16_bn are pinned to the commit with which their hub repository received them.
No such commit is on record here for resnet34: its revision is the branch "main", which may move.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_transfer.errors import UserError

WEIGHTS_FILE = "model.safetensors"
BUNDLED_ENCODER = "resnet18"


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder of the catalogue; tuples have one entry per level, finest first.

    Attributes:
        name: Name in plans and on the command line.
        timm_name: Name in timm.
        channels: Channels of each level.
        strides: In-plane stride of each level relative to the input: level k has ``2 ** (k + 1)``.
        mean: Mean of the RGB input in [0, 1] that the encoder was trained with.
        std: Standard deviation of the same.
        licence: Licence of the ImageNet weights, as timm records it.
        repository: Hub repository of the ImageNet weights.
        revision: Revision in that repository.
        parameters: Parameters of all levels together, for three input channels.
        parameters_per_level: The same per level.
        saved_elements: Elements which one level (not the sum up to it) keeps for the backward pass, per pixel of the
            network's input, in training; measured in 2D.
        flops: Floating point operations of one level's forward pass per pixel of the network's input; measured in 2D.
        url: Where the file of weights lies that are on no hub; else empty.
        volumes: Whether it converts to 3D.
    """

    name: str
    timm_name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    repository: str
    revision: str
    parameters: int
    parameters_per_level: tuple[int, ...]
    saved_elements: tuple[float, ...]
    flops: tuple[float, ...]
    url: str = ""
    volumes: bool = True

    @property
    def source(self) -> str:
        """Where the ImageNet weights come from: the hub's repository, or an address (https://...)."""
        return self.url or self.repository


def _read() -> dict[str, EncoderEntry]:
    table = json.loads(Path(__file__).with_name("encoders.json").read_text(encoding="utf-8"))
    entries = {}
    for name, row in table.items():
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        entries[name] = EncoderEntry(name=name, **fields)
    return entries


ENCODERS = _read()


def entry(name: str) -> EncoderEntry:
    """The catalogue's entry of an encoder.

    Raises:
        UserError: If there is no such encoder; the message lists those that exist.
    """
    if name not in ENCODERS:
        raise UserError(f"unknown encoder {name!r}", where="encoder", mend=f"choose one of: {', '.join(ENCODERS)}")
    return ENCODERS[name]


def imagenet_cached(name: str) -> bool:
    """Whether the ImageNet weights of an encoder lie in the local cache; never touches the network."""
    known = entry(name)
    return cached_weights(known.source, known.revision) is not None


def cached_weights(source: str, revision: str) -> Path | None:
    """The file of weights in the local cache, or None; never touches the network.

    Args:
        source: As in :class:`EncoderEntry`.
        revision: As in :class:`EncoderEntry`.
    """
    if is_address(source):
        path = address_cache(source)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, WEIGHTS_FILE, revision=revision)
    return Path(found) if isinstance(found, str) else None


def is_address(source: str) -> bool:
    """Whether weights are a single file on a server, such as torchvision's, and not in a hub repository."""
    return source.startswith("https://")


def address_cache(address: str) -> Path:
    """Where torch and torchvision keep the file of an address, found without loading them."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()
    return home / "hub" / "checkpoints" / address.rpartition("/")[2]
