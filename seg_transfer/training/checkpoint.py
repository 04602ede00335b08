"""Checkpoints: one safetensors file per state, with JSON in its header, replaced as a whole; no pickle.

Two files cannot be replaced together, so everything that must agree lies in one. ``model.safetensors`` holds what
inference needs (the weights to predict with, and the plan); ``resume.safetensors`` holds what continuing needs (weights
that learn, averaged weights, optimizer state, and how far training has come).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.util.files import whole_file
from seg_transfer.util.records import HEADER_KEY, wrong_version
from seg_transfer.util.tensor_file import TensorFileKind, open_tensor_file

CHECKPOINT_VERSION = 2
CHECKPOINT = TensorFileKind(
    noun="checkpoint",
    if_missing="train first",
    if_foreign="name a file that `segtl train` wrote",
    if_damaged="restore it from a copy, or train again with --restart",
)
CONTIGUOUS = torch.contiguous_format

CheckpointKind = Literal["model", "resume", "exported"]
Tensors = dict[str, Tensor]


class Checksum(Protocol):
    """What :mod:`hashlib` makes."""

    def update(self, data: Any, /) -> None: ...


def save_state(path: Path, kind: CheckpointKind, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write tensors and header into one file that replaces the former at once.

    Args:
        path: Where to.
        kind: ``model`` (for inference), ``resume`` or ``exported`` (see :mod:`seg_transfer.planning.model_file`).
        tensors: Any device, shape and memory format.
        header: Anything that JSON keeps, such as the plan; floats come back to the bit. An exported model's has its own
            ``version``.
    """
    content = {"version": CHECKPOINT_VERSION, "kind": kind, **header}
    metadata = {HEADER_KEY: json.dumps(content, allow_nan=True)}
    # safetensors refuses tensors that share memory or are not contiguous
    apart = {name: tensor.detach().cpu().clone(memory_format=CONTIGUOUS) for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        temporary.touch()
        usual = temporary.stat().st_mode
        save_file(apart, temporary, metadata=metadata)
        temporary.chmod(usual)  # safetensors lets the owner alone read


def load_state(
    path: Path, kind: CheckpointKind, *, device: torch.device | str = "cpu"
) -> tuple[Tensors, dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Returns:
        The tensors and the header.

    Raises:
        UserError: If the file is missing, cut off, no checkpoint of segtl, or of another kind or version.
    """
    with open_tensor_file(path, CHECKPOINT, framework="pt", device=str(device)) as (file, header):
        _check(path, kind, header)
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - not a dict


def load_header(path: Path, kind: CheckpointKind) -> dict[str, Any]:
    """Read the header alone, which is quick; raises as :func:`load_state` does."""
    with open_tensor_file(path, CHECKPOINT) as (_, header):
        _check(path, kind, header)
        return header


def add_to_checksum(checksum: Checksum, tensors: Tensors) -> None:
    """Add names and bytes of tensors, in the order of their names."""
    for name in sorted(tensors):
        checksum.update(name.encode())
        checksum.update(tensors[name].contiguous().numpy())


def with_prefix(prefix: str, tensors: Tensors) -> Tensors:
    """Put ``prefix/`` before every name, so that several states share one file."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Tensors) -> Tensors:
    """Take the tensors below ``prefix/`` and drop it from their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Tensors:
    """Flatten an optimizer's state to ``parameter name/entry``.

    Args:
        optimizer: Its state may lack parameters that never learned.
        names: ``id(parameter)`` -> name.
    """
    return {
        f"{names[id(parameter)]}/{entry}": value
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str], tensors: Tensors) -> None:
    """Give an optimizer the state that :func:`optimizer_tensors` flattened; its groups stay as they are."""
    by_parameter: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        parameter, _, entry = name.rpartition("/")
        by_parameter.setdefault(parameter, {})[entry] = tensor
    state: dict[int, Tensors] = {}
    index = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (entries := by_parameter.get(names[id(parameter)])) is not None:
                state[index] = {entry: _like(parameter, tensor) for entry, tensor in entries.items()}
            index += 1
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Lay a moment out in memory as its parameter is: mixed layouts make the optimizer's step slow."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, device=tensor.device, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _check(path: Path, kind: CheckpointKind, header: dict[str, Any]) -> None:
    if header["version"] != CHECKPOINT_VERSION:
        if_older = "use the segtl that wrote it, or train again with --restart"
        raise wrong_version("checkpoint", header["version"], CHECKPOINT_VERSION, where=path, if_older=if_older)
    if header["kind"] != kind:
        hint = f"use {kind}.safetensors beside it"
        raise UserError(f"holds a {header['kind']} state, a {kind} state is needed", where=path, hint=hint)
