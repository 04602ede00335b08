"""Typed JSON records: unknown fields are refused, values are frozen, and errors name fields by their path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from seg_transfer.errors import UserError
from seg_transfer.util.files import write_text

HEADER_KEY = "segtl"
"""Metadata key of segtl's JSON header in safetensors and ONNX files."""


class Part(BaseModel):
    """Base of every record: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JsonRecord(Part):
    """A record that is a file: written whole or not at all, and read with its version checked.

    A subclass declares ``version: Literal[N] = N``, its current version; a file without a version is version 1. Where
    the fields of an older version can be turned into the present ones, it overrides :meth:`upgrade`.

    Attributes:
        noun: What the record is, for messages.
        if_missing: Hint where there is no file.
        if_wrong: Hint where the file is damaged or was edited into something else.
        if_older: Hint where the file is of an older version that cannot be upgraded; ``if_wrong`` unless it is set.
        reads_newer: Whether a newer version is read as far as its fields are known, instead of refused.
    """

    version: int

    noun: ClassVar[str]
    if_missing: ClassVar[str]
    if_wrong: ClassVar[str]
    if_older: ClassVar[str] = ""
    reads_newer: ClassVar[bool] = False

    @classmethod
    def current_version(cls) -> int:
        """The version that this segtl writes."""
        current: int = cls.model_fields["version"].default
        return current

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, self.to_json() + "\n")

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=2)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote, by this or an earlier segtl.

        Raises:
            UserError: If the file is missing, no JSON, of a version that cannot be read, or has a wrong field.
        """
        if not path.is_file():
            raise UserError(f"there is no {cls.noun} here", where=path, hint=cls.if_missing)
        return cls.from_json(path.read_bytes(), where=path)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: Path | str) -> Self:
        """Read JSON text; ``where`` it is from is named in messages. Raises as :meth:`load` does."""
        return cls.from_content(parse_object(text, cls.noun, where=where, hint=cls.if_wrong), where=where)

    @classmethod
    def from_content(cls, content: dict[str, Any], *, where: Path | str) -> Self:
        """Read a JSON object; ``where`` it is from is named in messages. Raises as :meth:`load` does."""
        current = cls.current_version()
        version = content.get("version", 1)
        if version != current:
            upgraded = None
            if type(version) is int and version < current:
                upgraded = cls.upgrade(content, version)
            elif type(version) is int and cls.reads_newer:
                upgraded = content
            if upgraded is None:
                raise wrong_version(cls.noun, version, current, where=where, if_older=cls.if_older or cls.if_wrong)
            content = upgraded | {"version": current}
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise UserError("; ".join(wrong_fields(error)), where=where, hint=cls.if_wrong) from None

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """The content of an older version with the present fields; None if it cannot be read any more."""
        return None


def parse_object(text: str | bytes, noun: str, *, where: Path | str, hint: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: The JSON text.
        noun: What it is to be, for messages.
        where: Where it is from, for messages.
        hint: What to do if it is something else.

    Raises:
        UserError: If it is no JSON, or no JSON object.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a {noun}, or damaged: {str(error).splitlines()[0]}", where=where, hint=hint) from None
    if not isinstance(content, dict):
        raise UserError(f"not a {noun}: no JSON object", where=where, hint=hint)
    return content


def wrong_version(noun: str, version: object, current: int, *, where: Path | str, if_older: str) -> UserError:
    """The error about a file of another version than this segtl's.

    Args:
        noun: What the file is.
        version: The file's.
        current: This segtl's.
        where: The file.
        if_older: What to do about an older one.
    """
    newer = type(version) is int and version > current
    return UserError(
        f"a {noun} of version {version!r}; this segtl reads version {current}",
        where=where,
        hint="it was written by a newer segtl: update segtl" if newer else if_older,
    )


def wrong_fields(error: ValidationError) -> list[str]:
    """Each field that is wrong by its path, and what is wrong with it."""
    lines = []
    for problem in error.errors():
        path = ".".join(str(step) for step in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "unknown field"
        lines.append(f"{path}: {text}" if path else text)
    return lines
