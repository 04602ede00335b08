"""Files of tensors: safetensors with a JSON object in the metadata. Opening one loads no torch.

safetensors checks every size in the header against the file before it allocates memory, but spends minutes on absurd
headers: what no network has is refused before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from seg_transfer.errors import UserError
from seg_transfer.util.records import HEADER_KEY, parse_object
from seg_transfer.util.remote import fetched

LENGTH_BYTES = 8
"""A file starts with the length of its header in this many bytes, little-endian."""
MOST_AXES = 8
LONGEST_NAME = 256
LARGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
LONGEST_CAUSE = 200
"""Characters shown of safetensors' own message, which quotes the file."""


@dataclass(frozen=True)
class TensorFileKind:
    """A kind of file, with its texts in messages.

    Attributes:
        noun: Name of the kind.
        if_missing: Hint if there is no file.
        if_foreign: Hint if another program wrote the file.
        if_damaged: Hint if the file is cut off or damaged.
        largest_header: Largest header in bytes.
    """

    noun: str
    if_missing: str
    if_foreign: str
    if_damaged: str
    largest_header: int = LARGEST_HEADER


@contextmanager
def open_tensor_file(
    path: Path, kind: TensorFileKind, *, framework: Literal["np", "pt"] = "np", device: str = "cpu"
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file; the context yields safetensors' handle and segtl's JSON object.

    Args:
        path: The file.
        kind: The expected kind.
        framework: Read arrays of numpy or tensors of torch.
        device: Device of torch's tensors.

    Raises:
        UserError: If the file is missing, cut off, damaged, or not written by segtl.
    """
    fetched(path)
    if not path.is_file():
        raise UserError(f"there is no {kind.noun} here", where=path, hint=kind.if_missing)
    _check_header(path, kind)
    try:
        with safe_open(path, framework=framework, device=device) as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
            if text is None:
                what = f"no {kind.noun} of segtl: its header does not say what it is"
                raise UserError(what, where=path, hint=kind.if_foreign)
            yield file, parse_object(text, kind.noun, where=path, hint=kind.if_damaged, allow_nan=True)
    except (SafetensorError, OSError) as error:
        cause = str(error)[:LONGEST_CAUSE]
        what = f"no {kind.noun} of segtl, or cut off or damaged: {cause}"
        raise UserError(what, where=path, hint=kind.if_damaged) from None


def _check_header(path: Path, kind: TensorFileKind) -> None:
    """Refuse a header that is too large, or lists what no network has; whatever else is wrong safetensors finds."""
    with path.open("rb") as start:
        length = int.from_bytes(start.read(LENGTH_BYTES), "little")
        if length > kind.largest_header:
            what = f"no {kind.noun} of segtl: its header has {length} bytes, at most {kind.largest_header} are read"
            raise UserError(what, where=path, hint=kind.if_foreign)
        text = start.read(length)
    try:
        entries = parse_object(text, kind.noun, where=path, hint=kind.if_damaged)
    except UserError as error:
        what = f"no {kind.noun} of segtl, or cut off or damaged: {error.what}"
        raise UserError(what, where=path, hint=kind.if_damaged) from None
    for name, entry in entries.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if len(name) > LONGEST_NAME:
            what = f"the name of a tensor has {len(name)} characters, at most {LONGEST_NAME} are read"
        elif isinstance(shape, list) and len(shape) > MOST_AXES:
            what = f"its tensor {name} has {len(shape)} axes, at most {MOST_AXES} are read"
        elif isinstance(shape, list) and 0 in shape:
            what = f"its tensor {name} is empty"
        else:
            continue
        raise UserError(what, where=path, hint=kind.if_damaged)
