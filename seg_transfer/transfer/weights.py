"""Find, fetch, check and load the encoder's pretrained weights, and say what was loaded and what was not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from seg_transfer.catalogue.encoders import BUNDLED_ENCODER, ENCODERS, entry
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.fetch import check_beside, weights_file
from seg_transfer.transfer.inflate import inflate_weight
from seg_transfer.transfer.matching import Match, Shapes, Target, best_matches
from seg_transfer.transfer.weight_files import StateDicts, read_state_dicts

logger = logging.getLogger(__name__)

BUNDLED = Path(__file__).parent / "bundled" / "resnet18_tinyimagenet.safetensors"
LEAST_SHARE = 0.9
EXAMPLES = 3
"""Names in a message."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor; every dictionary maps a name to its number of elements.

    Attributes:
        matched: Taken from the source as it is.
        adapted: Taken from the source and changed to fit: other input channels, or inflated to 3D.
        random: Of the encoder's stages in use, not in the source or of another shape: random.
        unused: Of the source, not in the encoder's stages in use: its head, and deeper stages.
        place: Where in a file with prefixes or several state dicts they were, such as ``teacher: backbone.``.
    """

    matched: dict[str, int] = field(default_factory=dict)
    adapted: dict[str, int] = field(default_factory=dict)
    random: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)
    place: str = ""

    @property
    def share(self) -> float:
        """Elements of the stages in use that come from the source, in [0, 1]."""
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
        return f"{self.share:.1%} of the encoder's stages in use are pretrained ({'; '.join(parts)})"


def load_weights(module: Encoder, weights: Weights, encoder_name: str, *, stages: int | None = None) -> LoadReport:
    """Load pretrained weights into an encoder, adapted to its input channels and inflated where it is 3D.

    Half precision in the source becomes float32. BatchNorm statistics count as elements, step counters do not.

    Args:
        module: The encoder; with ``weights.source`` "none" it stays as it is.
        weights: Where they come from.
        encoder_name: Name in the catalogue.
        stages: How many stages take them, from the finest; by default all that the encoder has.

    Raises:
        UserError: If the weights cannot be had or read, fill less than 90 % of the elements of the stages in use,
            are those of another network, or are in the file twice and differ.
    """
    target = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if weights.source == "none" or stages == 0:
        return LoadReport(random={name: tensor.numel() for name, tensor in target.items()})
    path = _locate(weights, encoder_name)
    file = read_state_dicts(path)
    match = _matching(module, file, path, encoder_name)
    source = file[match.part]
    report, first = LoadReport(place=str(match)), module.first_convolution()
    with torch.no_grad():
        for name, tensor in target.items():
            wanted = stages is None or _stage(name) < stages
            given = match.pairs.get(_without_stage(name)) if wanted else None
            if given is None:
                report.random[name] = tensor.numel()
                continue
            found = source[given].to(tensor.dtype)
            fitted = _fit(found, tensor, module, is_first=name == first)
            tensor.copy_(fitted)
            (report.matched if fitted is found else report.adapted)[name] = tensor.numel()
    loaded = report.matched | report.adapted
    used = {match.pairs[_without_stage(name)] for name in loaded}
    report.unused.update({name: tensor.numel() for name, tensor in source.items() if name not in used})
    if first in report.random:
        logger.warning(
            f"{path}: the first convolution does not fit (RGB or grey is needed), so that it starts at random"
        )
    return report


def adapt_input(weight: Tensor, channels: int) -> Tensor:
    """A convolution kernel ``(out, 3, u, v)`` of RGB, or ``(out, 1, u, v)`` of grey, for any number of channels.

    One channel: the sum of the filters, the response to a grey picture. Others: the filters repeat cyclically times
    old / new channels, so that the response to equal channels stays that to grey. As many as before: as they are.
    """
    before = weight.shape[1]
    if channels == before:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(channels) % before] * (before / channels)


def _fit(found: Tensor, target: Tensor, module: Encoder, *, is_first: bool) -> Tensor:
    if is_first and found.ndim == 4:
        found = adapt_input(found, target.shape[1])
    if found.ndim == 4 and target.ndim == 5:
        found = inflate_weight(found, target.shape[2], module.inflation)
    return found


def _without_stage(name: str) -> str:
    """The architecture's name of a tensor: without the ``stages.<stage>.`` of this package."""
    return name.split(".", 2)[2]


def _stage(name: str) -> int:
    """The stage of a tensor, from ``stages.<stage>.``."""
    return int(name.split(".", 2)[1])


def _target(module: Encoder) -> Target:
    state = module.state_dict()
    shapes = {_without_stage(name): tuple(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}
    return Target(shapes, _without_stage(module.first_convolution()))


def _matching(module: Encoder, file: StateDicts, path: Path, encoder_name: str) -> Match:
    """The one way to read the encoder from the file.

    Raises:
        UserError: If there is none, or more than one.
    """
    target = _target(module)
    parts = {part: {name: tuple(tensor.shape) for name, tensor in held.items()} for part, held in file.items()}
    matches = best_matches(target, parts)
    if not matches or matches[0].share < LEAST_SHARE:
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
                hint="save those that you mean as a file of their own",
            )
    return best


def _refusal(
    target: Target, parts: Mapping[str, Shapes], match: Match | None, path: Path, encoder_name: str
) -> UserError:
    """What is wrong with weights that do not fit, and which encoder of the catalogue they fit."""
    pairs = match.pairs if match else {}
    missing = [name for name in target.shapes if name not in pairs]
    filled = 1 - sum(target.size(name) for name in missing) / target.elements
    if match and filled >= LEAST_SHARE:
        what = f"these weights are of a larger network than {encoder_name}, which has no {_some(match.surplus)}"
    else:
        largest = max(parts.values(), key=len)
        there = [name for name in (parts[match.part] if match else largest) if name not in set(pairs.values())]
        what = (
            f"only {filled:.0%} of the elements of {encoder_name}'s stages in use are in these weights "
            f"({LEAST_SHARE:.0%} are needed); missing, or of another shape: {_some(missing)}"
        )
        if there:
            what += f"; in the file and not used: {_some(there)}"
    like = _resembling(parts, encoder_name)
    if like is not None:
        hint = f"they fit {like}: plan with --encoder {like}, or give weights of {encoder_name}"
    else:
        hint = (
            f"they fit no encoder of the catalogue: give weights of {encoder_name} with the names that timm gives "
            "(any prefix will do), or choose another --encoder or --weights"
        )
    return UserError(what, where=path, hint=hint)


def _resembling(parts: Mapping[str, Shapes], but: str) -> str | None:
    """Name of the encoder that weights fit best, all stages together; None if they fit none of the others."""
    shares = {}
    for name in ENCODERS:
        if name != but:
            matches = best_matches(_target_of(name), parts)
            shares[name] = matches[0].share if matches else 0.0
    best = max(shares, key=lambda name: shares[name])
    return best if shares[best] >= LEAST_SHARE else None


@cache
def _target_of(name: str) -> Target:
    """What all stages of an encoder need, without data."""
    with torch.device("meta"):
        return _target(Encoder(name, channels=3))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")


def _locate(weights: Weights, encoder_name: str) -> Path:
    if weights.source == "bundled":
        if encoder_name != BUNDLED_ENCODER:
            raise UserError(
                f"the bundled weights are of {BUNDLED_ENCODER}, not of {encoder_name}",
                where="model.weights",
                hint=f"choose --encoder {BUNDLED_ENCODER}, or --weights imagenet",
            )
        return BUNDLED
    if weights.source == "imagenet":
        known = entry(encoder_name)
        return weights_file(weights.repository or known.source, weights.revision or known.revision, encoder_name)
    path = Path(str(weights.path))
    if not path.is_file():
        raise UserError("there is no weights file here", where=path, hint="give the path of an existing file")
    check_beside(path)
    return path
