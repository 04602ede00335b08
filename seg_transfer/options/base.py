"""Base of all options types: typed, frozen, and validated with one message that names the command-line option.

A field is written once. Its type and bounds are checked, and its description is the text of ``--help`` and of the
function's docstring. :class:`Cli` describes it on the command line. A type with a :class:`Command` is a command.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from seg_transfer.errors import UserError
from seg_transfer.util.addresses import check_credentials, from_option, is_address

_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "{} or less", "lt": "less than {}"}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "path": "a path",
    "string": "a text",
    "tuple": "a list of texts",
    "dict": "a mapping, such as {'MRI': 'zscore'}",
}
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
        repeated: Given once for each of several values.
        address: What is done with an address, such as ``s3://bucket/key``, in place of a path: what is there is read or
            written. None: addresses are refused.
    """

    flags: str = ""
    metavar: str | None = None
    panel: str | None = None
    argument: bool = False
    positional: bool = False
    only: bool = False
    repeated: bool = False
    address: Literal["read", "write"] | None = None


@dataclass(frozen=True)
class Command:
    """A command of the command line; ``show_NAME`` of :mod:`seg_transfer.cli.show` or ``show_scores`` prints it.

    Attributes:
        name: Name on the command line.
        help: One sentence.
        epilog: Examples and notes below the options; ``{metrics}`` stands for the list of metrics.
        function: ``module:function`` that takes the options; by default the one of :mod:`seg_transfer` with the
            command's name.
        group: Command that this one belongs to, such as ``encoders``.
    """

    name: str
    help: str
    epilog: str
    function: str = ""
    group: str = ""


class Options(BaseModel):
    """Base of the options of a command.

    Raises:
        UserError: If a value is invalid; it names the option as on the command line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    command: ClassVar[Command | None] = None

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            _refuse(type(self), error.errors()[0])

    @model_validator(mode="before")
    @classmethod
    def _has_no_empty_text(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Refuse ``""``, which as a path would mean the current folder."""
        for name, value in values.items():
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                raise UserError("is empty", where=flag_of(cls, name), hint="give a value, or omit it")
        return values

    @model_validator(mode="before")
    @classmethod
    def _has_no_other_addresses(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Turn addresses into the paths that stand for them, where they may be given."""
        kept = dict(values)
        for name, field in cls.model_fields.items():
            key = keyword_of(name, field) if keyword_of(name, field) in kept else name
            given = kept.get(key)
            several = given if isinstance(given, list | tuple) else (given,)
            for each in several:
                if isinstance(each, str):
                    check_credentials(each)
            if not _is_of_paths(field.annotation) or not any(isinstance(each, str | Path) for each in several):
                continue
            if cli_of(field).address is None and any(isinstance(each, str) and is_address(each) for each in several):
                hint = "give a local path; the documentation on storage says where addresses are read and written"
                raise UserError("an address cannot be given here", where=flag_of(cls, name), hint=hint)
            paths = tuple(from_option(each) if isinstance(each, str | Path) else each for each in several)
            kept[key] = paths if isinstance(given, list | tuple) else paths[0]
        return kept


def _is_of_paths(annotation: Any) -> bool:
    return annotation is Path or any(map(_is_of_paths, get_args(annotation)))


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
    raise UserError(f"cannot read {value!r}", where=where, hint=f"give {_expected(problem['type'])}") from None


def _expected(kind_of_problem: str) -> str:
    """What should have been given, for pydantic's name of a type error such as ``int_parsing``."""
    words = kind_of_problem.split("_")
    return next((text for name, text in _EXPECTED.items() if name in words), "another value")


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
