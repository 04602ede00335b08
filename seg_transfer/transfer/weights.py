"""Find, fetch, check and load the encoder's pretrained weights, and say what was loaded and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from seg_transfer.catalogue import BUNDLED_ENCODER, WEIGHTS_FILE, entry
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Weights
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import inflate_weight

BUNDLED = Path(__file__).parent / "bundled" / "resnet18_tinyimagenet.safetensors"
LEAST_SHARE = 0.9
WRAPPERS = ("state_dict", "model", "model_state_dict")
PREFIXES = ("module.", "encoder.", "backbone.", "model.")


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor; every dictionary maps a name to its number of elements.

    Attributes:
        matched: Taken from the source as it is.
        adapted: Taken from the source and changed to fit: other input channels, or inflated to 3D.
        random: Of the encoder's levels in use, not in the source or of another shape: random.
        unused: Of the source, not in the encoder's levels in use: its head, and deeper levels.
    """

    matched: dict[str, int] = field(default_factory=dict)
    adapted: dict[str, int] = field(default_factory=dict)
    random: dict[str, int] = field(default_factory=dict)
    unused: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Elements of the levels in use that come from the source, in [0, 1]."""
        loaded = sum(self.matched.values()) + sum(self.adapted.values())
        return loaded / (loaded + sum(self.random.values()))

    def __str__(self) -> str:
        parts = [
            f"{name}: {len(group)} tensors, {sum(group.values()):,} elements"
            for name, group in vars(self).items()
            if group
        ]
        return f"{self.share:.1%} of the encoder's levels in use are pretrained ({'; '.join(parts)})"


def load_weights(module: Encoder, weights: Weights, encoder_name: str) -> LoadReport:
    """Load pretrained weights into an encoder, adapted to its input channels and inflated where it is 3D.

    Half precision in the source becomes float32. BatchNorm statistics count as elements, step counters do not.

    Args:
        module: The encoder; with ``weights.source`` "none" it stays as it is.
        weights: Where they come from.
        encoder_name: Name in the catalogue.

    Raises:
        UserError: If the weights cannot be had or read, or fill less than 90 % of the elements of the levels in use.
    """
    target = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    if weights.source == "none":
        return LoadReport(random={name: tensor.numel() for name, tensor in target.items()})
    path = _locate(weights, encoder_name)
    source = {_key(name): tensor for name, tensor in _read(path).items() if tensor.is_floating_point()}
    report, first = LoadReport(), module.first_convolution()
    with torch.no_grad():
        for name, tensor in target.items():
            found = source.pop(_key(name.split(".", 2)[2]), None)  # without "stages.<level>."
            if found is None:
                report.random[name] = tensor.numel()
                continue
            found = found.to(tensor.dtype)
            fitted = _fit(found, tensor, module) if name == first or found.ndim > 1 else found
            if fitted.shape != tensor.shape:
                report.random[name] = tensor.numel()
                continue
            tensor.copy_(fitted)
            (report.matched if fitted is found else report.adapted)[name] = tensor.numel()
    report.unused.update({name: tensor.numel() for name, tensor in source.items()})
    if report.share < LEAST_SHARE:
        missing = ", ".join(list(report.random)[:3])
        raise UserError(
            f"only {report.share:.0%} of the elements of {encoder_name}'s {len(module.channels)} levels are in these "
            f"weights ({LEAST_SHARE:.0%} are needed); missing or of another shape: {missing}, ...",
            where=path,
            mend="give weights of this encoder, or choose another --encoder or --weights",
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


def _fit(found: Tensor, target: Tensor, module: Encoder) -> Tensor:
    if found.ndim == 4 and found.shape[1] == 3 and target.shape[1] != 3:
        found = adapt_input(found, target.shape[1])
    if found.ndim == 4 and target.ndim == 5:
        found = inflate_weight(found, target.shape[2], module.inflation)
    return found


def _key(name: str) -> str:
    """Names compare equal however timm nests sequential modules ("features.0" or "features_0")."""
    return name.replace(".", "_")


def _locate(weights: Weights, encoder_name: str) -> Path:
    if weights.source == "bundled":
        if encoder_name != BUNDLED_ENCODER:
            raise UserError(
                f"the bundled weights are of {BUNDLED_ENCODER}, not of {encoder_name}",
                where="model.weights",
                mend=f"choose --encoder {BUNDLED_ENCODER}, or --weights imagenet",
            )
        return BUNDLED
    if weights.source == "imagenet":
        return _from_hub(weights, encoder_name)
    path = Path(str(weights.path))
    if not path.is_file():
        raise UserError("there is no weights file here", where=path, mend="give the path of an existing file")
    return path


def _from_hub(weights: Weights, encoder_name: str) -> Path:
    from huggingface_hub import hf_hub_download

    known = entry(encoder_name)
    repository = weights.repository or known.repository
    revision = weights.revision or known.revision
    try:
        return Path(hf_hub_download(repository, WEIGHTS_FILE, revision=revision))
    except Exception as error:  # the client's errors share no base: offline, no such repository, no disk space
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the ImageNet weights {repository} (revision {revision}) could not be fetched: {cause}",
            where="model.weights",
            mend=f"plan with --weights bundled (encoder {BUNDLED_ENCODER}), or try again with a network",
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name from safetensors or a torch checkpoint, without wrappers and common prefixes."""
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a file that is no checkpoint makes the unpickler raise is anything at all
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"not readable as weights: {cause}",
            where=path,
            mend="give a safetensors file, or a torch checkpoint that holds nothing but tensors",
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise UserError("holds no dictionary of tensors", where=path, mend="give a state dict")
    return {_without_prefix(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}


def _without_prefix(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name
