"""Encoder, source of its weights, and inflation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from seg_transfer.catalogue.encoders import BUNDLED, DEFAULT_ENCODER, EncoderEntry
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights


def encoder(requested: str) -> tuple[str, str]:
    """Choose the encoder.

    Args:
        requested: A name in the catalogue, or ``auto``: the default one.
    """
    if requested != "auto":
        return requested, "requested"
    return DEFAULT_ENCODER, f"its {BUNDLED[DEFAULT_ENCODER].images} weights come with the package"


def weights(entry: EncoderEntry, requested: str, imagenet_cached: Callable[[str], bool]) -> tuple[Weights, str]:
    """Choose the source of the encoder's weights; ``auto`` never depends on the network.

    Args:
        entry: The encoder.
        requested: ``auto``, ``bundled``, ``imagenet``, ``none`` or the path of a file.
        imagenet_cached: Whether the ImageNet weights of an encoder (by name) are in the local cache.

    Raises:
        UserError: If bundled weights are requested for an encoder that has none.
    """
    if requested == "imagenet" and not entry.source:
        what, hint = f"timm records no ImageNet weights of {entry.name}", "give a file, or choose another --encoder"
        raise UserError(what, where="--weights", hint=hint)
    if requested == "imagenet":
        return _imagenet(entry), f"requested; {entry.source}, {entry.licence}"
    if requested == "none":
        return Weights(source="none"), "requested"
    if requested == "bundled":
        if entry.name not in BUNDLED:
            raise UserError(
                f"there are no bundled weights for {entry.name}",
                where="--weights",
                hint=f"choose --encoder {', '.join(BUNDLED)}, or --weights imagenet",
            )
        return Weights(source="bundled"), f"requested; {_bundled(entry)}"
    if requested != "auto":
        return Weights(source="file", path=requested), f"the file {requested} was requested"
    if entry.name in BUNDLED:
        return Weights(source="bundled"), f"come with the package ({entry.licence}); {_bundled(entry)}"
    if imagenet_cached(entry.name):
        return _imagenet(entry), f"the ImageNet weights of {entry.name} are in the local cache; {entry.source}"
    return Weights(source="none"), (
        f"the ImageNet weights of {entry.name} are neither in the package nor in the local cache; auto never "
        "downloads: random weights; --weights imagenet downloads them"
    )


def _imagenet(entry: EncoderEntry) -> Weights:
    return Weights(source="imagenet", repository=entry.source, revision=entry.revision)


def _bundled(entry: EncoderEntry) -> str:
    return f"{BUNDLED[entry.name].images}; {BUNDLED[entry.name].licence}"


def inflation(configuration: str) -> tuple[Literal["average", "centre"], str]:
    """Choose how 2D kernels become 3D ones, by ``bench/recipe.py``: ``docs/log.md``, 2026-11-30."""
    if configuration != "3d":
        return "average", f"no effect in {configuration}"
    return (
        "centre",
        "2D kernels stand in the centre slice, with zeros around them: repeated along the slice axis, they would blur "
        "in every layer",
    )
