"""Reads text and JSON files of any origin; whatever is wrong with one is a :class:`UserError` that names it."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.util.remote import fetched

LARGEST = 256 * 2**20
"""Bytes of a text file above which it is refused: segtl's own are a few megabytes for a thousand cases."""
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_bytes(path: Path, hint: str) -> bytes:
    """Read a text file's bytes.

    Args:
        path: The file.
        hint: Hint of errors: the expected content.

    Raises:
        UserError: If there is no such file, or it is too large for text.
    """
    fetched(path)
    try:
        if not path.is_file():
            raise UserError("there is no such file", where=path, hint=hint)
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(f"{size} bytes are too many for a text file", where=path, hint=hint)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, hint=hint) from None


def read_text(path: Path, hint: str) -> str:
    """Read a text file: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Arguments and errors as for :func:`read_bytes`; raises the same error if the file is not text.
    """
    return _decoded(read_bytes(path, hint), path, hint)


def has_byte_order_mark(path: Path) -> bool:
    """Whether a file starts with a byte order mark."""
    with path.open("rb") as file:
        return file.read(4).startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS))


def read_json(path: Path, hint: str) -> Any:
    """Read a JSON file; arguments and errors as for :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, hint), where=path, hint=hint)


def parse_json(text: str | bytes, *, where: Path | str, hint: str, allow_nan: bool = False) -> Any:
    """Parse JSON text.

    Args:
        text: The text; bytes are decoded as by :func:`read_text`.
        where: Its source, for messages.
        hint: Hint of errors: the expected content.
        allow_nan: Whether NaN and infinities are read: segtl writes them into checkpoints.

    Raises:
        UserError: If the text is no JSON, nested too deeply, holds NaN or an infinity, which JSON has not, or half of a
            character, which no file can hold.
    """
    if isinstance(text, bytes):
        text = _decoded(text, where, hint)
    try:
        content = json.loads(text) if allow_nan else json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\u" in text and _SURROGATE.search(json.dumps(content, ensure_ascii=False)):
            raise ValueError("a text holds half of a character (a lone surrogate)")
    except RecursionError:
        raise UserError("not readable as JSON: nested too deeply", where=where, hint=hint) from None
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"not readable as JSON: {reason}", where=where, hint=hint) from None
    return content


def _decoded(content: bytes, where: Path | str, hint: str) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise UserError("not a text file", where=where, hint=hint) from None
    if "\0" in text:
        raise UserError("not a text file", where=where, hint=hint)
    return text


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return number
