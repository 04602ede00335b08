"""Generates Typer commands from options types: a field becomes a parameter, its description the help.

Typer splits the line and writes the help. Values reach the options type as they were typed: it alone validates them.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from seg_transfer.options.base import Options, bounds_of, cli_of, fields_of, keyword_of


def command(kind: type[Options], run: Callable[[Any], None]) -> Callable[..., None]:
    """Make a function for Typer that builds the options from the command line and calls ``run`` with them.

    Args:
        kind: Type of the options.
        run: Takes the options, does the work and shows the result.
    """
    fields = fields_of(kind)
    parameters = [_parameter(name, field) for name, field in fields.items()]

    def call(_context: typer.Context, **values: Any) -> None:
        given = {name: value for name, value in values.items() if _is_given(_context, name)}
        run(kind(**{keyword_of(name, fields[name]): value for name, value in given.items()}))

    context = inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters.insert(0, context)  # an option may be called context
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """A parameter of bool, text or texts. Its default is only shown: the options type fills it in."""
    cli = cli_of(field)
    kind: Any = bool if _is_switch(field) else list[str] if cli.repeated else str
    required = field.default is PydanticUndefined
    default = field.default if isinstance(field.default, bool) else _text(field.default)
    settings: dict[str, Any] = {
        "help": field.description,
        "metavar": _metavar(field),
        "rich_help_panel": cli.panel,
        "show_default": default is not None,
    }
    declared = typer.Argument(**settings) if cli.argument else typer.Option(*_flags(name, field), **settings)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind | None if default is None and not required else kind, declared],
    )


def _flags(name: str, field: FieldInfo) -> list[str]:
    """``-w --work``; ``--name/--no-name`` for a switch that is on by default or decided, ``--name`` for another."""
    flags = cli_of(field).flags or f"--{name.replace('_', '-')}"
    if _is_switch(field) and field.default is not False:
        return [f"{flags}/--no-{flags.removeprefix('--')}"]
    return flags.split("/")


def _is_switch(field: FieldInfo) -> bool:
    return field.annotation in (bool, bool | None)


def _metavar(field: FieldInfo) -> str | None:
    """``N [0<=x<1]``, or the choices of a Literal."""
    if cli_of(field).metavar is None and get_origin(field.annotation) is Literal:
        return f"<{'|'.join(get_args(field.annotation))}>"
    bounds = bounds_of(field)
    if not bounds:
        return cli_of(field).metavar
    lower = f"{bounds['ge']}<=" if "ge" in bounds else f"{bounds['gt']}<" if "gt" in bounds else ""
    upper = f"<={bounds['le']}" if "le" in bounds else f"<{bounds['lt']}" if "lt" in bounds else ""
    return f"{cli_of(field).metavar} [{lower}x{upper}]"


def _text(default: Any) -> str | None:
    return str(default) if isinstance(default, int | float | str | os.PathLike) else None
