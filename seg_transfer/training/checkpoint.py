"""Checkpoints: one safetensors file per state, with JSON in its header, replaced as a whole; no pickle.

Two files cannot be replaced together, so everything that must agree is in one. ``model.safetensors`` is for inference:
the averaged weights and the plan. ``resume.safetensors`` is for resuming: both sets of weights, the optimizer's state
and the progress. Both have digests of header and tensors (:mod:`~seg_transfer.training.checkpoint_header`).
"""

from __future__ import annotations

import json
import logging
import zlib
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.training.checkpoint_header import CHECKPOINT, TENSORS_KEY, changed, check_header, sealed
from seg_transfer.util.files import whole_file
from seg_transfer.util.records import HEADER_KEY, wrong_version
from seg_transfer.util.tensor_file import open_tensor_file

logger = logging.getLogger(__name__)

CHECKPOINT_VERSION = 2
CheckpointKind = Literal["model", "resume", "exported"]
Tensors = dict[str, Tensor]


class Checksum(Protocol):
    """A checksum of :mod:`hashlib`."""

    def update(self, data: Any, /) -> None: ...


def save_state(path: Path, kind: CheckpointKind, tensors: Tensors, header: dict[str, Any]) -> None:
    """Write tensors and header into one file, which is replaced atomically.

    Args:
        path: The file.
        kind: ``model`` (for inference), ``resume`` or ``exported`` (see :mod:`seg_transfer.planning.model_file`).
        tensors: Tensors of any device, shape and memory format.
        header: Content for JSON, such as the plan; an exported model's has its own ``version``.
    """
    # safetensors refuses tensors that share memory or are not contiguous
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    content = {"version": CHECKPOINT_VERSION, "kind": kind, **header}
    if kind != "exported":  # which has a checksum of its own
        content = sealed(content | {TENSORS_KEY: _checksum(copies)})
    metadata = {HEADER_KEY: json.dumps(content, allow_nan=True)}
    needed = sum(tensor.nbytes for tensor in copies.values()) + len(metadata[HEADER_KEY])
    with whole_file(path, needed=needed, apart=True) as temporary:
        temporary.touch()
        default_mode = temporary.stat().st_mode
        save_file(copies, temporary, metadata=metadata)
        temporary.chmod(default_mode)  # safetensors makes files that only the owner can read


def load_state(
    path: Path, kind: CheckpointKind, *, device: torch.device | str = "cpu"
) -> tuple[Tensors, dict[str, Any]]:
    """Read the tensors and the header that :func:`save_state` wrote.

    Raises:
        UserError: If the file is missing, damaged, no checkpoint of segtl, or of another kind or version.
    """
    with open_tensor_file(path, CHECKPOINT, framework="pt", device=str(device)) as (file, header):
        header, checksum = _checked(path, kind, header)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if checksum is not None and _checksum(tensors) != checksum:
        raise changed(path, "tensors")
    return tensors, header


def load_header(path: Path, kind: CheckpointKind) -> dict[str, Any]:
    """Read the header only; raises as :func:`load_state` does."""
    with open_tensor_file(path, CHECKPOINT) as (_, header):
        return _checked(path, kind, header)[0]


def is_whole_model(path: Path) -> bool:
    """Whether a model for inference is there and not damaged; damage is logged."""
    if not path.is_file():
        return False
    try:
        load_state(path, "model")
    except UserError as error:
        logger.warning(f"{error.where}: {error.what}: it is written again")
        return False
    return True


def add_to_checksum(checksum: Checksum, tensors: Tensors) -> None:
    """Add names and bytes of tensors to a checksum, in the order of their names."""
    for name in sorted(tensors):
        checksum.update(name.encode())
        checksum.update(tensors[name].contiguous().numpy())


def _checksum(tensors: Tensors) -> str:
    """CRC-32 of names, types, shapes and bytes: twice as fast as SHA-256, for files that are written every minute."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def with_prefix(prefix: str, tensors: Tensors) -> Tensors:
    """Put ``prefix/`` before every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Tensors) -> Tensors:
    """Take the tensors below ``prefix/`` and drop it from their names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Tensors:
    """An optimizer's state as ``parameter name/entry`` -> tensor; names are by ``id(parameter)``."""
    return {
        f"{names[id(parameter)]}/{entry}": value
        for parameter, state in optimizer.state.items()
        for entry, value in state.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str], tensors: Tensors) -> None:
    """Load the state of :func:`optimizer_tensors` into an optimizer; its groups stay unchanged."""
    by_parameter: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        parameter, _, entry = name.rpartition("/")
        by_parameter.setdefault(parameter, {})[entry] = tensor
    state: dict[int, Tensors] = {}
    index = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (entries := by_parameter.get(names[id(parameter)])) is not None:
                state[index] = {entry: _in_layout_of(parameter, tensor) for entry, tensor in entries.items()}
            index += 1
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _in_layout_of(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Give a moment the memory format of its parameter: mixed formats slow the optimizer's step down."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, device=tensor.device, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def _checked(path: Path, kind: CheckpointKind, header: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The header without digests, and the tensors' checksum."""
    header, checksum = check_header(path, header)
    version, held = header.get("version"), header.get("kind")
    if version != CHECKPOINT_VERSION:
        if_older = "use the segtl that wrote it, or train again with --restart"
        raise wrong_version("checkpoint", version, CHECKPOINT_VERSION, where=path, if_older=if_older)
    if held != kind:
        hint = f"use {kind}.safetensors beside it"
        raise UserError(f"holds a {held} state, a {kind} state is needed", where=path, hint=hint)
    return header, checksum
