"""Finds, fetches, checks and loads an encoder's pretrained weights, and reports what was loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from seg_transfer.catalogue.encoders import BUNDLED, ENCODERS, entry
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.fetch import check_beside, weights_file
from seg_transfer.transfer.inflate import fit_depth
from seg_transfer.transfer.matching import Match, Shapes, Target, best_matches
from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.weight_files import StateDicts, read_state_dicts

logger = logging.getLogger(__name__)

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
MIN_SHARE = 0.9
"""Least share of the elements of the stages in use that a file has to fill."""
EXAMPLES = 3
"""Most tensor names in a message."""


@dataclass(frozen=True)
class LoadReport:
    """How each tensor was loaded; every dictionary maps a name to its number of elements.

    Attributes:
        matched: Loaded unchanged.
        adapted: Loaded and adapted: other input channels, or inflated to 3D.
        random: Tensors of the stages in use that the source lacks or has in another shape.
        unused: Tensors of the source that the stages in use do not have: its head, and deeper stages.
        place: State dict and prefix in the file, such as ``teacher: backbone.``.
        outcome: What the loaded share means, for messages.
    """

    matched: dict[str, int] = field(default_factory=dict)
    adapted: dict[str, int] = field(default_factory=dict)
    random: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    place: str = ""
    outcome: str = "the encoder's stages in use are pretrained"

    @property
    def share(self) -> float:
        """Share of the elements of the stages in use that were loaded, in [0, 1]."""
        loaded = sum(self.matched.values()) + sum(self.adapted.values())
        return loaded / (loaded + sum(self.random.values()))

    @property
    def groups(self) -> dict[str, dict[str, int]]:
        """The four dictionaries by name."""
        return {"matched": self.matched, "adapted": self.adapted, "random": self.random, "unused": self.unused}

    def __str__(self) -> str:
        parts = [
            f"{name}: {len(group)} tensors, {sum(group.values()):,} elements"
            for name, group in self.groups.items()
            if group
        ]
        if self.place:
            parts.append(f"found under {self.place}")
        return f"{self.share:.1%} of {self.outcome} ({'; '.join(parts)})"


def load_weights(module: Encoder, weights: Weights, encoder_name: str, *, stages: int | None = None) -> LoadReport:
    """Load pretrained weights into an encoder, adapted to its input channels and inflated where it is 3D.

    Half precision in the source becomes float32. BatchNorm statistics count as elements, step counters do not.

    Args:
        module: The encoder; unchanged with ``weights.source`` "none".
        weights: The plan's source of weights.
        encoder_name: Name in the catalogue.
        stages: Number of stages to load, from the finest; all by default.

    Raises:
        UserError: If the weights cannot be fetched or read, fill less than 90 % of the elements of the stages in use,
            belong to another network, or are in the file twice and differ.
    """
    target = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if weights.source == "none" or stages == 0:
        return LoadReport(random={name: tensor.numel() for name, tensor in target.items()})
    path = _locate(weights, encoder_name)
    file = read_state_dicts(path)
    match = _only_match(module, file, path, encoder_name)
    source = file[match.part]
    report, image = LoadReport(place=str(match)), module.image_weights()
    with torch.no_grad():
        for name, tensor in target.items():
            is_pretrained = stages is None or _stage(name) < stages
            source_name = match.pairs.get(_without_stage(name)) if is_pretrained else None
            if source_name is None:
                report.random[name] = tensor.numel()
                continue
            fitted = original = source[source_name].to(tensor.dtype)
            if name in image and fitted.ndim == 4:
                fitted = adapt_input(fitted, tensor.shape[1], slices=module.slices)
            fitted = fit_depth(fitted, tensor, module.inflation)
            tensor.copy_(fitted)
            (report.matched if fitted is original else report.adapted)[name] = tensor.numel()
    loaded = report.matched | report.adapted
    used = {match.pairs[_without_stage(name)] for name in loaded}
    report.unused.update({name: tensor.numel() for name, tensor in source.items() if name not in used})
    if image & report.random.keys():
        logger.warning(f"{path}: the first convolution does not fit (RGB or grey is needed) and starts at random")
    return report


def adapt_input(weight: Tensor, channels: int, *, slices: int = 1) -> Tensor:
    """Adapt a convolution kernel ``(out, in, ...)`` to another number of input channels.

    For one channel the filters are summed: the response to a grey image. Otherwise they repeat cyclically, times
    old / new channels, so that the response to equal channels stays that to grey, exactly where the new number is a
    multiple of the old one. The slices of a 2.5D stack of one channel are such channels. Of several channels each would
    read its slices as the colours of one image, and the response would be to the mean of the channels; instead, the
    filters stand in the middle slice, between zeros (``docs/log.md``, 2026-11-30).

    Args:
        weight: The kernel.
        channels: New channels, in 2.5D image channels times slices, channel by channel.
        slices: Slices of a 2.5D stack.
    """
    before = weight.shape[1]
    if channels == before:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    if 1 < slices < channels:
        adapted = weight.new_zeros(weight.shape[0], channels, *weight.shape[2:])
        adapted[:, slices // 2 :: slices] = adapt_input(weight, channels // slices)
        return adapted
    return weight[:, torch.arange(channels) % before] * (before / channels)


def _without_stage(name: str) -> str:
    """The library's name of a tensor: without ``stages.<stage>.``."""
    return name.split(".", 2)[2]


def _stage(name: str) -> int:
    return int(name.split(".", 2)[1])


def _target(module: Encoder) -> Target:
    state = module.state_dict()
    shapes = {_without_stage(name): tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}
    return Target(shapes, frozenset(map(_without_stage, module.image_weights())))


def _only_match(module: Encoder, file: StateDicts, path: Path, encoder_name: str) -> Match:
    """The match of the encoder with the file.

    Raises:
        UserError: If there is none, or several that differ in their values.
    """
    target = _target(module)
    parts = {part: {name: tuple(tensor.shape) for name, tensor in state.items()} for part, state in file.items()}
    matches = best_matches(target, parts)
    if not matches or matches[0].share < MIN_SHARE:
        raise _refusal(target, parts, matches[0] if matches else None, path, encoder_name)
    best, *others = matches
    for other in others:
        if any(
            not torch.equal(file[best.part][best.pairs[name]], file[other.part][other.pairs[name]])
            for name in best.pairs.keys() & other.pairs.keys()
        ):
            places = " and ".join(f"under {str(one) or 'no prefix'}" for one in (best, other))
            raise UserError(
                f"holds weights of {encoder_name} more than once, and they differ: {places}",
                where=path,
                hint="save the ones to use in a separate file",
            )
    return best


def _refusal(
    target: Target, parts: Mapping[str, Shapes], match: Match | None, path: Path, encoder_name: str
) -> UserError:
    """The error for weights that do not fit; its hint names the encoder of the catalogue that they fit."""
    pairs = match.pairs if match else {}
    missing = [name for name in target.shapes if name not in pairs]
    filled = 1 - sum(target.size(name) for name in missing) / target.elements
    if match and filled >= MIN_SHARE:
        what = f"these weights are of a larger network than {encoder_name}, which has no {_list(match.surplus)}"
    else:
        largest = max(parts.values(), key=len)
        unused = [name for name in (parts[match.part] if match else largest) if name not in set(pairs.values())]
        what = (
            f"only {filled:.0%} of the elements of {encoder_name}'s stages in use are in these weights "
            f"({MIN_SHARE:.0%} are needed); missing, or of another shape: {_list(missing)}"
        )
        if unused:
            what += f"; in the file and not used: {_list(unused)}"
    fitting = _fitting_encoder(parts, encoder_name)
    if fitting is not None:
        hint = f"they fit {fitting}: plan with --encoder {fitting}, or give weights of {encoder_name}"
    else:
        hint = (
            f"they fit no encoder of the catalogue: give weights of {encoder_name} with timm's names (any prefix), or "
            "choose another --encoder or --weights"
        )
    return UserError(what, where=path, hint=hint)


def _fitting_encoder(parts: Mapping[str, Shapes], excluded: str) -> str | None:
    """Name of the encoder whose stages the weights fit best; None if they fit none but the excluded one."""
    shares = {}
    for name in ENCODERS:
        if name != excluded:
            matches = best_matches(_target_of(name), parts)
            shares[name] = matches[0].share if matches else 0.0
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= MIN_SHARE else None


@cache
def _target_of(name: str) -> Target:
    """Tensors of all stages of an encoder, without allocating them."""
    with on_meta():
        return _target(Encoder(name, channels=3))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _locate(weights: Weights, encoder_name: str) -> Path:
    if weights.source == "bundled":
        if encoder_name not in BUNDLED:
            raise UserError(
                f"there are no bundled weights for {encoder_name}",
                where="model.weights",
                hint=f"choose --encoder {', '.join(BUNDLED)}, or --weights imagenet",
            )
        return BUNDLED_FOLDER / BUNDLED[encoder_name].file
    if weights.source == "imagenet":
        default = entry(encoder_name)
        return weights_file(weights.repository or default.source, weights.revision or default.revision, encoder_name)
    path = Path(str(weights.path))
    if not path.is_file():
        raise UserError("there is no weights file here", where=path, hint="give the path of an existing file")
    check_beside(path)
    return path
