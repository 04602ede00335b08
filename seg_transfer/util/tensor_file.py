"""The files that segtl keeps tensors in: safetensors with a JSON object in the metadata. Opening one loads no torch.

safetensors itself checks every size in the file's header against the file before it allocates anything of that size.
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

LENGTH_BYTES = 8
"""At the start of the file; they hold the length of the header that follows, little-endian."""
LONGEST_CAUSE = 200
"""Characters of safetensors' own message; it quotes the file."""


@dataclass(frozen=True)
class TensorFileKind:
    """What a file is to be, for messages.

    Attributes:
        noun: What it is.
        if_missing: Hint where there is no file.
        if_foreign: Hint where segtl did not write it.
        if_damaged: Hint where it is cut off or damaged.
        largest_header: Bytes of header that are read at most; None for safetensors' own limit.
    """

    noun: str
    if_missing: str
    if_foreign: str
    if_damaged: str
    largest_header: int | None = None


@contextmanager
def open_tensor_file(
    path: Path, kind: TensorFileKind, *, framework: Literal["np", "pt"] = "np", device: str = "cpu"
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file; the context holds safetensors' handle and the JSON object of segtl.

    Args:
        path: The file.
        kind: What it is to be.
        framework: What tensors come as: arrays of numpy or of torch.
        device: Where torch puts them.

    Raises:
        UserError: If the file is missing, cut off, damaged, or not written by segtl.
    """
    if not path.is_file():
        raise UserError(f"there is no {kind.noun} here", where=path, hint=kind.if_missing)
    if kind.largest_header is not None:
        with path.open("rb") as start:
            length = int.from_bytes(start.read(LENGTH_BYTES), "little")
        if length > kind.largest_header:
            what = f"no {kind.noun} of segtl: its header has {length} bytes, at most {kind.largest_header} are read"
            raise UserError(what, where=path, hint=kind.if_foreign)
    try:
        with safe_open(path, framework=framework, device=device) as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
            if text is None:
                what = f"no {kind.noun} of segtl: its header does not say what it is"
                raise UserError(what, where=path, hint=kind.if_foreign)
            yield file, parse_object(text, kind.noun, where=path, hint=kind.if_damaged)
    except (SafetensorError, OSError) as error:
        cause = str(error)[:LONGEST_CAUSE]
        what = f"no {kind.noun} of segtl, or cut off or damaged: {cause}"
        raise UserError(what, where=path, hint=kind.if_damaged) from None
