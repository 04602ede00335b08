"""Typed JSON records: unknown fields are refused, values are frozen, and errors name fields by their path."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

HEADER_KEY = "segtl"
"""Metadata key of segtl's JSON header in safetensors and ONNX files."""


class Part(BaseModel):
    """Base of every record: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
