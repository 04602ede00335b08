"""The catalogue of encoders: properties, costs and sources of their ImageNet weights; no torch, no network.

``encoders.json`` is written by ``tools/encoder_table.py`` from the libraries' records and from measurements, its column
``slowness`` by ``tools/encoder_speed.py``. A revision is the commit that added the weights to a hub repository, or the
branch "main" where that is not known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seg_transfer.errors import UserError

WEIGHTS_FILE = "model.safetensors"
DEFAULT_ENCODER = "tf_efficientnet_lite0"
TORCHVISION = "torchvision/"
TIMM = "timm/"
"""Prefix of any network of timm, which is described where it is used (``transfer/describe.py``)."""


@dataclass(frozen=True)
class BundledWeights:
    """Weights that come with the package, in ``transfer/bundled`` with a card.

    Attributes:
        file: Name of the file.
        images: What the encoder was trained on.
        licence: Licence or terms of the weights.
    """

    file: str
    images: str
    licence: str


IMAGENET = "ImageNet-1k"
LITE_LICENCE = "apache-2.0, as published; trained on ImageNet-1k, whose images have terms of their own"
BUNDLED = {
    "tf_efficientnet_lite0": BundledWeights("tf_efficientnet_lite0.safetensors", IMAGENET, LITE_LICENCE),
    "tf_efficientnet_lite1": BundledWeights("tf_efficientnet_lite1.safetensors", IMAGENET, LITE_LICENCE),
    "tf_efficientnet_lite2": BundledWeights("tf_efficientnet_lite2.safetensors", IMAGENET, LITE_LICENCE),
}
"""Encoder -> its bundled weights."""

StageKind = Literal["flat", "deep", "strided"]
"""Kind of a stage: ``flat`` is 2D (in 2D, 2.5D, and slice by slice in 3D); ``deep`` is 3D with stride 1 along the slice
axis, ``strided`` with stride 2."""


@dataclass(frozen=True)
class StageCosts:
    """Costs of each stage (not cumulative) as one kind; finest first.

    Attributes:
        parameters: For three input channels.
        saved_elements: Elements saved for the backward pass, with the stage's output and without its input: bytes under
            bfloat16 autocast over 2, per pixel of the network's input and slice of the stage's input.
        saved_as_lowest: The same where no finer stage learns: with the input, and without what precedes the first
            parameter.
        flops: Floating point operations of the forward pass, per pixel and slice as above.
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
        library: Source of modules and weights.
        library_name: Name in that library.
        channels: Channels of each stage.
        strides: In-plane stride of each stage relative to the input: 2 or 4, doubled at each further stage.
        mean: Mean of the RGB input in [0, 1] that the encoder was trained with.
        std: Standard deviation of that input.
        licence: Licence of the ImageNet weights as timm records it; torchvision's own licence for its weights.
        repository: Hub repository of the ImageNet weights; empty for torchvision's.
        revision: Revision in that repository, or torchvision's name of the weights.
        file: Name of torchvision's weights file, a torch state dict; empty for those on the hub.
        volumes: Whether it converts to 3D.
        depthwise: Whether it has depthwise convolutions.
        batchnorm: Whether it has BatchNorm.
        parameters: Number of parameters of all stages, for three input channels.
        costs: Kind -> costs of each stage; only ``flat`` where it does not convert to 3D.
        slowness: Seconds per floating point operation of a training step over ResNet-18's, in 2D and in 3D, on a CPU in
            bfloat16; None if not measured, and in 3D where it does not convert.
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
    depthwise: bool
    batchnorm: bool
    parameters: int
    costs: Mapping[StageKind, StageCosts]
    slowness: tuple[float | None, float | None]

    @property
    def source(self) -> str:
        """Source of the ImageNet weights: the hub repository, or ``torchvision/`` and the file's name."""
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
DESCRIBED: dict[str, EncoderEntry] = {}
"""Networks of timm that this process has described, by ``timm/NAME``."""


def entry(name: str, where: str = "encoder") -> EncoderEntry:
    """The catalogue's entry of an encoder.

    Args:
        name: Name of the encoder.
        where: What gives the name, for the error: an option or a field.

    Raises:
        UserError: If there is no such encoder.
    """
    found = ENCODERS.get(name) or DESCRIBED.get(name)
    if found is None:
        hint = f"choose timm/NAME, or one of: {', '.join(ENCODERS)}"
        raise UserError(f"unknown encoder {name!r}", where=where, hint=hint)
    return found


def volume_encoders() -> list[str]:
    """Names of the encoders that convert to 3D."""
    return [name for name, encoder in ENCODERS.items() if encoder.volumes]


def imagenet_cached(name: str) -> bool:
    """Whether the ImageNet weights of an encoder are in the local cache; never uses the network."""
    encoder = entry(name)
    return bool(encoder.source) and cached_weights(encoder.source, encoder.revision) is not None


def cached_weights(source: str, revision: str) -> Path | None:
    """Path of the weights file in the local cache, or None; never uses the network.

    Args:
        source: ``source`` of an :class:`EncoderEntry`.
        revision: ``revision`` of an :class:`EncoderEntry`.
    """
    if is_of_torchvision(source):
        path = torch_cache(source)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    path_text = try_to_load_from_cache(source, WEIGHTS_FILE, revision=revision)
    return Path(path_text) if isinstance(path_text, str) else None


def is_of_torchvision(source: str) -> bool:
    """Whether the weights are a file of torchvision, not in a hub repository."""
    return source.startswith(TORCHVISION)


def torch_cache(source: str) -> Path:
    """Path of torchvision's weights file in torch's cache, computed without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{cache}/torch"))
    with suppress(RuntimeError):  # a user without a home, as in a container, has no cache there
        home = home.expanduser()
    return home / "hub" / "checkpoints" / source.removeprefix(TORCHVISION)
