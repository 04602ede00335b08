"""Typed, versioned JSON records; errors name fields by their path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from seg_transfer.errors import UserError
from seg_transfer.util.files import whole_file
from seg_transfer.util.text_files import parse_json, read_bytes

MOST_PROBLEMS = 10
"""Wrong fields in one message."""
LONGEST_QUOTE = 60
"""Characters of a file's names and values in a message."""
HEADER_KEY = "segtl"
"""Metadata key of segtl's JSON object in safetensors and ONNX files."""
DIGEST_KEY = "digest"
"""Key of the digest of a JSON object's other content."""


class Record(BaseModel):
    """Base of every record: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class JsonRecord(Record):
    """A record with a file of its own: written atomically, and read with its version checked.

    A subclass declares its current version as ``version: Literal[N] = N``; a file without a version is version 1. If
    older versions can be converted, it overrides :meth:`upgrade`.

    Attributes:
        noun: Name of the record in messages.
        if_missing: Hint if there is no file.
        if_wrong: Hint if the file is damaged or has a wrong field.
        if_older: Hint if the file has an older version that cannot be converted; by default ``if_wrong``.
        reads_newer: Whether the known fields of a newer version are read, instead of refusing it.
        sealed: Whether the file has a digest of its content, which is compared when it is read. Not for files that
            people edit. A file without one is read too.
    """

    version: int

    noun: ClassVar[str]
    if_missing: ClassVar[str]
    if_wrong: ClassVar[str]
    if_older: ClassVar[str] = ""
    reads_newer: ClassVar[bool] = False
    sealed: ClassVar[bool] = True

    @classmethod
    def current_version(cls) -> int:
        """The version that this release writes."""
        current: int = cls.model_fields["version"].default
        return current

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(self.pieces())
            file.write("\n")

    def pieces(self) -> Iterator[str]:
        """The file's text; that of a long record in many pieces, so that it need not be in memory as a whole."""
        text = self.to_json()
        if self.sealed:
            text = text.rstrip().removesuffix("}").rstrip() + seal(content_digest(json.loads(text)))
        yield text

    def to_json(self) -> str:
        """The record as JSON text."""
        return self.model_dump_json(indent=2)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that :meth:`save` of this or an earlier release wrote.

        Raises:
            UserError: If the file is missing or no JSON, cannot be read in its version, or has a wrong field.
        """
        if not path.is_file():
            raise UserError(f"there is no {cls.noun} here", where=path, hint=cls.if_missing)
        return cls.from_json(read_bytes(path, cls.if_wrong), where=path)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: Path | str) -> Self:
        """Read JSON text; messages name its source ``where``. Raises as :meth:`load` does."""
        return cls.from_content(parse_object(text, cls.noun, where=where, hint=cls.if_wrong), where=where)

    @classmethod
    def from_content(cls, content: dict[str, Any], *, where: Path | str) -> Self:
        """Read a JSON object; messages name its source ``where``. Raises as :meth:`load` does."""
        if cls.sealed:
            if not is_whole(content):
                what = f"the {cls.noun} was changed after it was written: its digest differs"
                raise UserError(what, where=where, hint=cls.if_wrong)
            content = {key: content[key] for key in content if key != DIGEST_KEY}
        current = cls.current_version()
        version = content.get("version", 1)
        if version != current:
            upgraded = content if cls.reads_newer else None
            if type(version) is not int or version < current:
                upgraded = cls.upgrade(content, version) if type(version) is int else None
            if upgraded is None:
                raise wrong_version(cls.noun, version, current, where=where, if_older=cls.if_older or cls.if_wrong)
            content = upgraded | {"version": current}
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError("; ".join(wrong_fields(error)), where=where, hint=cls.if_wrong) from None

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Convert the content of an older version to the current fields; None if that is not possible."""
        return None


def parse_object(
    text: str | bytes, noun: str, *, where: Path | str, hint: str, allow_nan: bool = False
) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: The JSON text.
        noun: Its name in messages.
        where: Its source, for messages.
        hint: Hint of the error.
        allow_nan: Whether NaN and infinities are read.

    Raises:
        UserError: If the text is no JSON object.
    """
    try:
        content = parse_json(text, where=where, hint=hint, allow_nan=allow_nan)
    except UserError as error:
        raise UserError(f"not a {noun}, or damaged: {error.what}", where=where, hint=hint) from None
    if not isinstance(content, dict):
        raise UserError(f"not a {noun}: no JSON object", where=where, hint=hint)
    return content


def is_whole(content: dict[str, Any]) -> bool:
    """Whether a JSON object fits its digest, or has none."""
    rest = {key: content[key] for key in content if key != DIGEST_KEY}
    return len(rest) == len(content) or content[DIGEST_KEY] == content_digest(rest)


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, in hexadecimal digits; independent of the order of its keys and of white space.

    Args:
        content: Its values; a list may be an iterator, so that its items need not be in memory together.
    """
    digest = hashlib.sha256()
    for text in _canonical(content):
        digest.update(text.encode())
    return digest.hexdigest()


def _canonical(content: Mapping[str, Any]) -> Iterator[str]:
    """Pieces of the JSON text of an object with sorted keys."""
    yield "{"
    for key_number, (key, value) in enumerate(sorted(content.items())):
        yield f"{', ' if key_number else ''}{json.dumps(key)}: "
        if isinstance(value, list | Iterator):
            yield "["
            for number, item in enumerate(value):
                yield f"{', ' if number else ''}{json.dumps(item, sort_keys=True)}"
            yield "]"
        else:
            yield json.dumps(value, sort_keys=True)
    yield "}"


def seal(digest: str) -> str:
    """The end of a JSON object's text, with the digest of its other content."""
    return f',\n  "{DIGEST_KEY}": "{digest}"\n}}'


def wrong_version(noun: str, version: object, current: int, *, where: Path | str, if_older: str) -> UserError:
    """The error about a file of another version.

    Args:
        noun: Name of the file in messages.
        version: Version of the file.
        current: Version that this release reads.
        where: The file.
        if_older: Hint if the file is older.
    """
    newer = type(version) is int and version > current
    return UserError(
        f"a {noun} of version {repr(version)[:LONGEST_QUOTE]}; this segtl reads version {current}",
        where=where,
        hint="it was written by a newer segtl: update segtl" if newer else if_older,
    )


def wrong_fields(error: ValidationError) -> list[str]:
    """One line per wrong field: its path and the problem; of many, the first ones."""
    problems = error.errors()
    lines = []
    for problem in problems[:MOST_PROBLEMS]:
        path = ".".join(str(step)[:LONGEST_QUOTE] for step in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "unknown field"
        lines.append(f"{path}: {text}" if path else text)
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"and {len(problems) - MOST_PROBLEMS} more")
    return lines
