"""A decorator by which a function of one options object can be called with keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import PydanticUndefined

from seg_transfer.options.base import Options, cli_of, fields_of, keyword_of
from seg_transfer.options.common import STDOUT
from seg_transfer.util.cluster import on_cluster
from seg_transfer.util.remote import look

OptionsT = TypeVar("OptionsT", bound=Options)
R = TypeVar("R")


def takes(kind: type[OptionsT]) -> Callable[[Callable[[OptionsT], R]], Callable[..., R]]:
    """Make ``function(options)`` callable as ``function(dataset, work=..., epochs=...)`` too.

    Its signature and the ``Args`` of its docstring are generated from the fields of ``kind``. An option ``cluster`` is
    heeded here, and so are addresses.
    """

    def decorate(function: Callable[[OptionsT], R]) -> Callable[..., R]:
        @wraps(function)
        def call(*arguments: Any, **named: Any) -> R:
            if len(arguments) == 1 and not named and isinstance(arguments[0], kind):
                options = arguments[0]
            else:
                options = options_from(kind, function.__name__, *arguments, **named)
            look_at_addresses(options)
            address = getattr(options, "cluster", None)
            with on_cluster(address):
                return function(options if address is None else _absolute(options))

        call.__signature__ = signature_of(kind).replace(  # type: ignore[attr-defined]
            return_annotation=inspect.signature(function).return_annotation
        )
        call.__doc__ = with_arguments(function.__doc__ or "", kind)
        return call

    return decorate


def look_at_addresses(options: Options) -> None:
    """See what is now at the addresses that the options name, before their paths are used.

    Raises:
        UserError: If nothing is where something is to be read, or an address cannot be reached.
    """
    for name, field in type(options).model_fields.items():
        if (use := cli_of(field).address) is not None:
            value = getattr(options, name)
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path):
                    look(path, required=use == "read")


def _absolute(options: OptionsT) -> OptionsT:
    """The same options with absolute paths: workers of a cluster may be in another folder."""
    paths: dict[str, object] = {}
    for name, value in options:
        if isinstance(value, Path) and value != STDOUT:
            paths[name] = value.absolute()
        elif isinstance(value, tuple) and any(isinstance(each, Path) for each in value):
            paths[name] = tuple(each.absolute() if isinstance(each, Path) else each for each in value)
    return options.model_copy(update=paths)


def options_from(kind: type[OptionsT], called: str, /, *arguments: Any, **named: Any) -> OptionsT:
    """Build options from the arguments of a call.

    Args:
        kind: Type of the options.
        called: Name of the function, for messages.
        *arguments: Positional arguments.
        **named: Keyword arguments.

    Raises:
        TypeError: If an argument is missing or unknown.
        UserError: If a value is invalid.
    """
    try:
        bound = signature_of(kind).bind(*arguments, **named)
    except TypeError as error:
        raise TypeError(f"{called}() {error}") from None
    return kind(**bound.arguments)


def signature_of(kind: type[Options]) -> inspect.Signature:
    """The Python signature of a command: positional arguments, then keyword-only options."""
    parameters = []
    for name, field in fields_of(kind).items():
        cli = cli_of(field)
        if cli.only:
            continue
        default = inspect.Parameter.empty if field.default is PydanticUndefined else field.default
        positional = cli.argument or cli.positional
        kind_of_parameter = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
        parameters.append(
            inspect.Parameter(keyword_of(name, field), kind_of_parameter, default=default, annotation=field.annotation)
        )
    return inspect.Signature(sorted(parameters, key=lambda parameter: parameter.kind))


def with_arguments(text: str, kind: type[Options]) -> str:
    """Insert the descriptions of the fields into a Google docstring, as ``Args`` before its other sections."""
    lines = [
        f"    {keyword_of(name, field)}: {field.description}"
        for name, field in fields_of(kind).items()
        if not cli_of(field).only
    ]
    body = inspect.cleandoc(text).split("\n")
    first = next((index for index, line in enumerate(body) if line in ("Returns:", "Raises:")), len(body))
    before = "\n".join(body[:first]).rstrip()
    after = "\n".join(body[first:])
    return "\n".join([before, "", "Args:", *lines, *(["", after] if after else [])])
