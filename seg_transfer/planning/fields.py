"""Types of the fields of a plan, and the hash over its parts."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from seg_transfer.util.records import Record
from seg_transfer.util.units import SPACINGS

Triple = tuple[int, int, int]
Length = Annotated[float, Field(ge=SPACINGS[0], le=SPACINGS[1])]
"""Spacing in mm or pixels, as far as files may have it."""
Spacing = tuple[Length, Length, Length]
Intensity = Annotated[float, Field(ge=-1e15, le=1e15)]
"""Larger ones overflow where float32 squares them."""
Fraction = Annotated[float, Field(ge=0, le=1)]
Fold = int | Literal["full"]
"""Index of a split of the plan; or ``full``, which trains on every case."""


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) < len(axes):
        raise ValueError(f"axes {axes} are not distinct")
    return axes


MirrorAxes = Annotated[tuple[Literal[0, 1, 2], ...], AfterValidator(_distinct)]


def part_hash(*parts: Record) -> str:
    """Hash of the fields that differ from their defaults, nested parts included.

    A new field therefore changes no hash: its default is the old behaviour.
    """
    return json_hash([part.model_dump(mode="json", exclude_defaults=True) for part in parts])


def json_hash(content: object) -> str:
    """First 12 hex digits of the SHA-256 of canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
