"""Which encoders exist, what they cost and where their ImageNet weights lie; no torch, no network.

The table beside this file is made by ``tools/encoder_table.py`` from the libraries' own records and from measurement,
its column ``slowness`` by ``tools/encoder_speed.py``. A revision is the commit with which a hub repository received its
weights; where none is on record here it is the branch "main", which may move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seg_transfer.errors import UserError

WEIGHTS_FILE = "model.safetensors"
BUNDLED_ENCODER = "resnet18"
TORCHVISION = "torchvision/"

StageKind = Literal["flat", "deep", "strided"]
"""Of a stage: ``flat`` is 2D (in 2D, 2.5D, and slice by slice in 3D); ``deep`` is 3D with stride 1 along the slice
axis, ``strided`` with stride 2."""


@dataclass(frozen=True)
class StageCosts:
    """What each stage (not the sum up to it) costs as one kind; finest first.

    Attributes:
        parameters: For three input channels.
        saved_elements: What it keeps for the backward pass in training, its result included and its input not: bytes
            under bfloat16 autocast over 2, per pixel of the network's input and slice of the stage's own input.
        saved_as_lowest: The same where no stage below learns: its input counts, and what comes before its first
            parameter keeps nothing.
        flops: Floating point operations of the forward pass, per the same.
    """

    parameters: tuple[int, ...]
    saved_elements: tuple[float, ...]
    saved_as_lowest: tuple[float, ...]
    flops: tuple[float, ...]


@dataclass(frozen=True)
class EncoderEntry:
    """One encoder of the catalogue; tuples have one entry per stage, finest first.

    Attributes:
        name: Name in plans and on the command line.
        library: Whose modules and weights it has.
        library_name: Name in that library.
        channels: Channels of each stage.
        strides: In-plane stride of each stage relative to the input: 2 or 4 at first, then twice the stage before.
        mean: Mean of the RGB input in [0, 1] that the encoder was trained with.
        std: Standard deviation of the same.
        licence: Licence of the ImageNet weights: as timm records it for these weights; torchvision's own (its
            records name none per model).
        repository: Hub repository of the ImageNet weights; empty for torchvision's, which are on no hub.
        revision: Revision in that repository, or torchvision's name of the weights.
        file: Name of torchvision's file of weights, a torch state dict; empty for those on the hub.
        volumes: Whether it converts to 3D.
        batchnorm: Whether it has BatchNorm.
        parameters: Parameters of all stages together, for three input channels.
        costs: Of each stage, per kind; only ``flat`` where it does not convert to 3D.
        slowness: Seconds per floating point operation of a training step over ResNet-18's, in 2D and in 3D, measured on
            a CPU in bfloat16; None where it has not been measured, and in 3D where it does not convert.
    """

    name: str
    library: Literal["timm", "torchvision"]
    library_name: str
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    repository: str
    revision: str
    file: str
    volumes: bool
    batchnorm: bool
    parameters: int
    costs: Mapping[StageKind, StageCosts]
    slowness: tuple[float | None, float | None]

    @property
    def source(self) -> str:
        """Where the ImageNet weights come from: the hub's repository, or torchvision and its file."""
        return f"{TORCHVISION}{self.file}" if self.file else self.repository


def _read() -> dict[str, EncoderEntry]:
    table = json.loads(Path(__file__).with_name("encoders.json").read_text(encoding="utf-8"))
    return {name: _entry(name, row) for name, row in table["encoders"].items()}


def _entry(name: str, row: dict[str, Any]) -> EncoderEntry:
    costs = {kind: StageCosts(**_tuples(columns)) for kind, columns in row.pop("costs").items()}
    return EncoderEntry(name=name, costs=costs, **_tuples(row))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


ENCODERS = _read()


def entry(name: str) -> EncoderEntry:
    """The catalogue's entry of an encoder.

    Raises:
        UserError: If there is no such encoder; the message lists those that exist.
    """
    if name not in ENCODERS:
        raise UserError(f"unknown encoder {name!r}", where="encoder", hint=f"choose one of: {', '.join(ENCODERS)}")
    return ENCODERS[name]


def volume_encoders() -> list[str]:
    """Names of the encoders that convert to 3D."""
    return [name for name, known in ENCODERS.items() if known.volumes]


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
    if is_of_torchvision(source):
        path = torch_cache(source)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, WEIGHTS_FILE, revision=revision)
    return Path(found) if isinstance(found, str) else None


def is_of_torchvision(source: str) -> bool:
    """Whether weights are a file that torchvision knows the address of, and not in a hub repository."""
    return source.startswith(TORCHVISION)


def torch_cache(source: str) -> Path:
    """Where torch and torchvision keep one of their files, found without loading them."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser()
    return home / "hub" / "checkpoints" / source.removeprefix(TORCHVISION)
