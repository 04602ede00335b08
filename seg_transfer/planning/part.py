"""What every part of a plan is made of: typed, frozen, hashed, and refused by the path of a wrong field."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Triple = tuple[int, int, int]
Spacing = tuple[
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
    Annotated[float, Field(gt=0)],
]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) < len(axes):
        raise ValueError(f"axes {axes} are not distinct")
    return axes


MirrorAxes = Annotated[tuple[Literal[0, 1, 2], ...], AfterValidator(_distinct)]


class Part(BaseModel):
    """Base of every part of a plan: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def part_hash(*parts: Part) -> str:
    """First 12 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps([part.model_dump(mode="json") for part in parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


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
