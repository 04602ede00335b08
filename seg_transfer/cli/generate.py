"""Generates Typer commands from options types: a field becomes a parameter, its description the help."""

from __future__ import annotations

import inspect
import logging
import os
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from seg_transfer.cli import console
from seg_transfer.options.base import Options, bounds_of, cli_of, fields_of, keyword_of
from seg_transfer.options.common import OfflineOption, VerbosityOptions


def command(kind: type[Options], run: Callable[[Any], None]) -> Callable[..., None]:
    """Make a function for Typer that builds the options from the command line and calls ``run`` with them.

    Args:
        kind: Type of the options.
        run: Takes the options, does the work and shows the result.
    """
    fields = fields_of(kind)
    parameters = [_parameter(name, field) for name, field in fields.items()]

    def call(**values: Any) -> None:
        given = {keyword_of(name, fields[name]): value for name, value in values.items() if value is not None}
        options = kind(**given)
        _apply(options)
        run(options)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _apply(options: Options) -> None:
    """Set what applies to the whole process: verbosity, the log file, and whether connections are allowed."""
    if isinstance(options, VerbosityOptions) and (options.verbose or options.quiet):
        console.set_level(logging.DEBUG if options.verbose else logging.WARNING)
    work = getattr(options, "work", None)
    if getattr(options, "model", None) is not None:
        work = None  # an exported model needs no work folder
    from seg_transfer.workflow.work_folder import WorkFolder

    console.log_tracebacks(None if work is None else WorkFolder(work).log)
    if isinstance(options, OfflineOption) and options.offline:
        from seg_transfer.transfer.fetch import OFFLINE

        os.environ[OFFLINE] = "1"


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    cli, kind = cli_of(field), _type_of(field)
    required = field.default is PydanticUndefined
    default = inspect.Parameter.empty if required else field.default
    bounds = bounds_of(field)
    settings: dict[str, Any] = {
        "help": field.description,
        "metavar": cli.metavar,
        "rich_help_panel": cli.panel,
        "show_default": not required,
    }
    if kind is int:
        settings |= {"min": bounds.get("ge"), "max": bounds.get("le")}
    if kind not in (bool, int, float) and not isinstance(default, str | os.PathLike):
        default = inspect.Parameter.empty if required else None
    if kind is float and "ge" in bounds:
        settings["min"] = bounds["ge"]
    declared = typer.Argument(**settings) if cli.argument else typer.Option(*_flags(name, field), **settings)
    annotation = kind if required or default is not None else kind | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, declared]
    )


def _flags(name: str, field: FieldInfo) -> list[str]:
    """``-w --work``; ``--name/--no-name`` for a switch that is on by default, ``--name`` for another switch."""
    flags = cli_of(field).flags or f"--{name.replace('_', '-')}"
    if field.annotation is bool and field.default is True:
        return [f"{flags}/--no-{flags.removeprefix('--')}"]
    return flags.split("/")


def _type_of(field: FieldInfo) -> Any:
    """Type of a field on the command line: its own without None, or the type of its text form."""
    if cli_of(field).typed is not None:
        return cli_of(field).typed
    if get_origin(field.annotation) in (Union, types.UnionType):
        (kind,) = (one for one in get_args(field.annotation) if one is not type(None))
        return kind
    return field.annotation
