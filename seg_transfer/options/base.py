"""Base of all options types: typed, frozen, and validated with one message that names the command-line option.

A field is written once. Its type and bounds are checked, and its description is the text of ``--help`` and of the
function's docstring. :class:`Cli` describes it on the command line.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from seg_transfer.errors import UserError

_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}
_OUT_OF_RANGE = {"greater_than_equal", "greater_than", "less_than_equal", "less_than"}


@dataclass(frozen=True)
class Cli:
    """How a field appears on the command line, and whether it may be given by position in Python.

    Attributes:
        flags: Such as ``-w/--work``, or ``--name/--no-name`` for a switch; by default ``--`` and the field's name.
        metavar: Placeholder of the value in ``--help``.
        panel: Panel of ``--help``; by default the first one.
        argument: Positional, on the command line and in Python.
        positional: A flag on the command line, but positional or keyword in Python.
        only: On the command line only, not in Python.
        typed: Type on the command line where the field is parsed from a text.
    """

    flags: str = ""
    metavar: str | None = None
    panel: str | None = None
    argument: bool = False
    positional: bool = False
    only: bool = False
    typed: Any = None


class Options(BaseModel):
    """Base of the options of a command.

    Raises:
        UserError: If a value is invalid; it names the option as on the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            _refuse(type(self), error.errors()[0])


def fields_of(kind: type[Options]) -> dict[str, FieldInfo]:
    """Name -> field, in the order of ``--help``: those of the type first, then those of its bases."""
    names = [name for base in kind.__mro__ for name in inspect.get_annotations(base)]
    return {name: kind.model_fields[name] for name in names if name in kind.model_fields}


def cli_of(field: FieldInfo) -> Cli:
    """How a field appears on the command line."""
    return next((item for item in field.metadata if isinstance(item, Cli)), Cli())


def keyword_of(name: str, field: FieldInfo) -> str:
    """Name of a field as a keyword in Python."""
    return field.alias or name


def flag_of(kind: type[Options], name: str) -> str:
    """Name of a field on the command line: ``--time-budget``, or ``DATASET`` for an argument.

    Args:
        kind: Type of the options.
        name: Name of the field, or its keyword in Python.
    """
    for field_name, field in kind.model_fields.items():
        if name in (field_name, field.alias):
            cli = cli_of(field)
            if cli.argument:
                return cli.metavar or name.upper()
            flags = cli.flags.split("/")
            return next((flag for flag in flags if flag.startswith("--")), f"--{name.replace('_', '-')}")
    return name


def _refuse(kind: type[Options], problem: ErrorDetails) -> NoReturn:
    """Turn a problem that pydantic reports into a UserError."""
    path = problem["loc"]
    value = problem["input"]
    where = flag_of(kind, str(path[0])) if path else None
    if len(path) > 1 and problem["type"] == "literal_error":  # the value of a mapping
        where = f"{where} {path[1]}={value}"
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        raise UserError(cause.what, where=cause.where or where, hint=cause.hint) from None
    if problem["type"] == "missing":
        raise UserError("is missing", where=where, hint="give a value") from None
    if problem["type"] == "extra_forbidden":
        hint = f"options: {', '.join(keyword_of(*item) for item in fields_of(kind).items())}"
        raise UserError("there is no such option", where=where, hint=hint) from None
    if problem["type"] == "literal_error":
        hint = f"choose one of: {problem['ctx']['expected'].replace(' or ', ', ')}".replace("'", "")
        raise UserError(f"unknown choice {value!r}", where=where, hint=hint) from None
    if problem["type"] in _OUT_OF_RANGE:
        raise UserError(f"{value} is out of range", where=where, hint=_range(kind, str(path[0]))) from None
    message = problem["msg"].removeprefix("Input should be ")
    raise UserError(f"cannot read {value!r}", where=where, hint=f"give {message}") from None


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """The bounds of a number among ``ge``, ``gt``, ``le`` and ``lt``."""
    return {
        name: getattr(item, name)
        for item in field.metadata
        for name in _BOUNDS
        if getattr(item, name, None) is not None
    }


def _range(kind: type[Options], name: str) -> str:
    field = next(field for key, field in kind.model_fields.items() if name in (key, field.alias))
    return "give " + " and ".join(_BOUNDS[bound].format(limit) for bound, limit in bounds_of(field).items())
