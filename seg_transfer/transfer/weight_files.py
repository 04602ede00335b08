"""Reads the state dicts of third-party weights files without running code in them."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor

from seg_transfer.errors import UserError

StateDicts = dict[str, dict[str, Tensor]]
HDF5 = b"\x89HDF"


def read_state_dicts(path: Path) -> StateDicts:
    """Every state dict in a file by its key, such as ``teacher`` or ``model.encoder``; the outermost one has "".

    A state dict is a dictionary with floating-point tensors. Other content (epochs, hyperparameters) is ignored.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote.

    Raises:
        UserError: If the file is neither, would run code when it is read, or holds no tensors.
    """
    content = _read(path)
    state_dicts = dict(_state_dicts(content, ())) if isinstance(content, dict) else {}
    if not state_dicts:
        raise UserError("holds no dictionary of tensors", where=path, hint="give a state dict")
    return state_dicts


def _state_dicts(content: Mapping[object, object], keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0
    }
    if tensors:
        yield ".".join(keys), tensors
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _state_dicts(value, (*keys, str(name)))


def _read(path: Path) -> object:
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5:
            raise UserError("Keras weights cannot be read", where=path, hint="give the weights for PyTorch")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # DINO, MAE and others save their arguments beside the weights; a Namespace holds values only.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises any type on a file that is no checkpoint
        text = str(error).strip()
        if needed := re.search(r"Unsupported global: GLOBAL ([\w.]+)", text):
            raise UserError(
                f"not readable as weights without running code that the file names: it holds {needed[1]}",
                where=path,
                hint="if you trust the file, save its tensors alone, in Python: import torch; "
                f"torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pt') "
                "(the key may have another name)",
            ) from error
        # torch's message for a broken file recommends weights_only=False.
        broken = isinstance(error, UnpicklingError) or not text
        cause = type(error).__name__ if broken else text.splitlines()[0]
        raise UserError(
            f"not readable as weights: {cause}",
            where=path,
            hint="give a safetensors file, or a torch checkpoint with tensors only",
        ) from error
