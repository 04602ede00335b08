"""The header of a checkpoint and its digests, without torch.

The header in the file holds ``tensors``, the CRC-32 of the tensors' names, types, shapes and bytes, and a digest of all
its content, which identifies the checkpoint. Checkpoints of earlier releases have neither and are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.util.files import file_digest
from seg_transfer.util.records import DIGEST_KEY, content_digest, is_whole
from seg_transfer.util.tensor_file import TensorFileKind, open_tensor_file

TENSORS_KEY = "tensors"
MODEL_NAME = "model.safetensors"
CHECKPOINT = TensorFileKind(
    noun="checkpoint",
    if_missing="train first",
    if_foreign="give a file that `segtl train` wrote",
    if_damaged="restore it from a copy, or train again with --restart",
)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A header as JSON will hold it, with its digest."""
    content = json.loads(json.dumps(content))
    return content | {DIGEST_KEY: content_digest(content)}


def check_header(path: Path, header: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Compare a header with its digest.

    Returns:
        The header without digests, and the tensors' checksum, if it has one.

    Raises:
        UserError: If it was changed.
    """
    if not is_whole(header) or (TENSORS_KEY in header and DIGEST_KEY not in header):
        raise changed(path, "header")
    content = {key: header[key] for key in header if key not in (DIGEST_KEY, TENSORS_KEY)}
    return content, header.get(TENSORS_KEY)


def changed(path: Path, part: str) -> UserError:
    """The error about a checkpoint with changed bytes in this part."""
    return UserError(f"the checkpoint is damaged: the digest of its {part} differs", where=path, hint=_hint(path))


def _hint(path: Path) -> str:
    if path.name == MODEL_NAME:
        return "train this fold again: `segtl train` writes it anew, from resume.safetensors beside it if that is whole"
    return CHECKPOINT.if_damaged


def model_digests(files: Sequence[Path]) -> tuple[str, ...]:
    """What identifies some models together: the digest of each, in ascending order, without repetition.

    Raises:
        UserError: If a file is missing, no checkpoint, or its header is damaged.
    """
    return tuple(sorted({_digest(path) for path in files}))


def _digest(path: Path) -> str:
    with open_tensor_file(path, CHECKPOINT) as (_, header):
        check_header(path, header)
        digest = header.get(DIGEST_KEY)
    return str(digest) if digest is not None else file_digest(path)
