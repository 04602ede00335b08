"""Reads the state dicts of third-party weights files without running code in them."""

from __future__ import annotations

import mmap
import re
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, cast
from zipfile import ZipFile, is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor

from seg_transfer.errors import UserError

Global = Callable | tuple[Callable, str]
"""A class or function, also with another name under which files may have it."""
StateDicts = dict[str, dict[str, Tensor]]
HDF5 = b"\x89HDF"
LONGEST_NAME = 500
"""Characters of a tensor's name; longer ones are of no network, and matching names takes their length squared."""
LONGEST_CAUSE = 300
"""Characters shown of torch's own message, which quotes the file."""


def read_state_dicts(path: Path) -> StateDicts:
    """Every state dict in a file by its key, such as ``teacher`` or ``model.encoder``; the outermost one has "".

    A state dict is a dictionary with floating-point tensors. Other content (epochs, hyperparameters) is ignored.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote.

    Raises:
        UserError: If the file is neither, would run code when it is read, or holds no tensors.
    """
    # DINO, MAE and others save their arguments beside the weights; a Namespace holds values only.
    content = read_content(path, [Namespace], "give a safetensors file, or a torch checkpoint with tensors only")
    state_dicts = dict(_state_dicts(content)) if isinstance(content, dict) else {}
    if not state_dicts:
        raise UserError("holds no dictionary of tensors", where=path, hint="give a state dict")
    return state_dicts


def _state_dicts(content: dict[object, object]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dictionary once: a pickle may hold one in many places, even in itself."""
    waiting: list[tuple[str, dict[object, object]]] = [("", content)]
    seen = {id(content)}
    while waiting:
        key, found = waiting.pop()
        named = {name: value for name, value in found.items() if isinstance(name, str) and len(name) <= LONGEST_NAME}
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor) and _is_weight(value)}
        if tensors:
            yield key, tensors
        inner = []
        for name, value in named.items():
            path = f"{key}.{name}" if key else name
            if isinstance(value, dict) and id(value) not in seen and len(path) <= LONGEST_NAME:
                seen.add(id(value))
                inner.append((path, value))
        waiting += reversed(inner)


def _is_weight(tensor: Tensor) -> bool:
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"  # a file may hold sparse and meta tensors
    return dense and tensor.is_floating_point() and tensor.ndim > 0


def read_content(path: Path, harmless: Sequence[Global], hint: str) -> object:
    """The content of a file of safetensors or ``torch.save``, of which no code is run.

    Args:
        path: The file.
        harmless: Classes and functions that may be in it beside tensors and Python's own types: they hold values only.
        hint: Hint of the error if it is no such file.

    Raises:
        UserError: If it is none, or would run code when it is read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(HDF5)) == HDF5:
                raise UserError("Keras weights cannot be read", where=path, hint="give the weights for PyTorch")
        if path.suffix == ".safetensors":
            return load_file(path)
        return _load_checkpoint(path, harmless)
    except UserError:
        raise
    except Exception as error:  # the unpickler raises any type on a file that is no checkpoint
        text = str(error).strip()
        if needed := re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", text):
            what = f"not readable as weights without running code that the file names: it holds {needed[1]}"
            hint = "give a file with tensors only, such as safetensors: ask whoever trained the weights for it"
        else:
            # torch's advice is to drop the safeguard against code in the file.
            broken = isinstance(error, UnpicklingError) or not text or "weights_only" in text
            cause = type(error).__name__ if broken else text.splitlines()[0][:LONGEST_CAUSE]
            what = f"not readable as weights: {cause}"
        raise UserError(what, where=path, hint=hint) from error


def _load_checkpoint(path: Path, harmless: Sequence[Global]) -> object:
    """Content of a file that torch wrote, as an archive or (before torch 1.6) as a sequence of pickles."""
    with torch.serialization.safe_globals(list(harmless)), warnings.catch_warnings(), _short_errors():
        warnings.simplefilter("ignore")
        if is_zipfile(path):
            _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        # A map gives no more bytes than there are; a file takes the memory first, as many as a pickle asks for.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return torch.load(cast(IO[bytes], content), map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    """Refuse archives other than torch's, which are not compressed: others may grow without bounds.

    Raises:
        UserError: If the files in it are larger than the archive, or it is a program of TorchScript.
    """
    with ZipFile(path) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > path.stat().st_size:
        hint = "unpack it, and give the weights file in it; or save the weights again with torch"
        raise UserError("this archive is compressed, which torch's are not", where=path, hint=hint)
    if any(member.filename.rpartition("/")[2] == "constants.pkl" for member in members):
        hint = "give the state dict of the network that the program was made from"
        raise UserError("this is a program of TorchScript, not a file of weights", where=path, hint=hint)


class _ShortError(UnpicklingError):
    def __init__(self, message: str) -> None:
        super().__init__(message[:LONGEST_CAUSE])


@contextmanager
def _short_errors() -> Iterator[None]:
    """Shorten the unpickler's messages: torch searches them, in time that grows with the square of their length.

    The module is torch's own affair: where a release has another one, messages stay as long as they are.
    """
    unpickler = getattr(torch, "_weights_only_unpickler", None)
    before = getattr(unpickler, UnpicklingError.__name__, None)
    if before is None:
        yield
        return
    setattr(unpickler, UnpicklingError.__name__, _ShortError)
    try:
        yield
    finally:
        setattr(unpickler, UnpicklingError.__name__, before)
