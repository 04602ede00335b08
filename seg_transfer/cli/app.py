"""The command line: each command parses its options, calls one function of :mod:`seg_transfer`, and shows the result.

Commands are the options types (:mod:`seg_transfer.options`) that have a :class:`~seg_transfer.options.base.Command`.

Exit codes: 0 done; 2 user error, or every case failed; 3 done, but some cases failed; 130 interrupted; 141 nobody reads
the output any more.
Any other exception is a defect of segtl and keeps its traceback.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

import seg_transfer as api
from seg_transfer.cli import console
from seg_transfer.cli.generate import command
from seg_transfer.cli.printing import print_json
from seg_transfer.errors import (
    INTERRUPTED,
    OUTPUT_CLOSED,
    SOME_FAILED,
    USER_ERROR,
    SomeCasesFailed,
    UserError,
    printable,
)
from seg_transfer.evaluation.metrics import metrics_help
from seg_transfer.options import (
    hub_options,
    import_options,
    model_options,
    other_options,
    plan_options,
    pretrain_options,
    serving_options,
    train_options,
)
from seg_transfer.options.base import Command, Options
from seg_transfer.options.common import OfflineOption, VerbosityOptions
from seg_transfer.training.launch import follows
from seg_transfer.util.addresses import with_addresses
from seg_transfer.util.limits import limit_reached
from seg_transfer.version import VERSION

logger = logging.getLogger(__name__)

ENVIRONMENT_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of the operating system that the user can fix; defects of segtl do not cause them."""
LOGGED = {"plan", "import-nnunet", "preprocess", "train", "summary", "probe"}
"""Commands that write into the work folder, which keeps their messages."""
MODULES = (
    plan_options,
    import_options,
    train_options,
    model_options,
    hub_options,
    serving_options,
    other_options,
    pretrain_options,
)
"""Modules with the commands' options types, in the order of ``--help``."""


def commands() -> Iterator[tuple[Command, type[Options]]]:
    """All commands with the types of their options, in the order of ``--help``."""
    for module in MODULES:
        own = [kind for kind in vars(module).values() if getattr(kind, "__module__", "") == module.__name__]
        yield from ((kind.command, kind) for kind in own if getattr(kind, "command", None))


def _run(entry: Command, options: Options) -> None:
    """Run a command and show its result."""
    with _ends_with_its_output():
        _apply(entry, options)
        module, _, name = (entry.function or f"seg_transfer:{entry.name}").partition(":")
        result = getattr(import_module(module), name)(options)
        if _follows(options):
            return  # the process that leads shows the result
        from seg_transfer.cli import show, show_scores

        shown, name_in_code = vars(show) | vars(show_scores), entry.name.replace("-", "_")
        if getattr(options, "as_json", False):
            print_json(result)
        else:
            shown.get(f"show_{name_in_code}", _echo)(result, options)
        shown.get(f"end_{name_in_code}", _nothing)(result, options)


@contextmanager
def _ends_with_its_output() -> Iterator[None]:
    """End a command whose output nobody reads any more, before Typer takes it for an interruption."""
    try:
        yield
        console.flush()
    except console.OutputClosed:
        raise typer.Exit(OUTPUT_CLOSED) from None


def _follows(options: Options) -> bool:
    """Whether this process only takes part in a training that another one leads; other commands know of no others."""
    return isinstance(options, train_options.TrainOptions) and follows(options.devices)


def _apply(entry: Command, options: Options) -> None:
    """Set what applies to the whole process: verbosity, the log file, and whether connections are allowed."""
    if isinstance(options, VerbosityOptions) and (options.verbose or options.quiet):
        console.set_level(logging.DEBUG if options.verbose else logging.WARNING)
    follower = _follows(options)
    if follower:
        console.set_level(logging.ERROR)
    work = getattr(options, "work", None)
    if getattr(options, "model", None) is not None or getattr(options, "nnunet", None) is not None:
        work = None  # an exported model needs no work folder
    from seg_transfer.workflow.work_folder import WorkFolder

    file = None if work is None else WorkFolder(work).log
    console.log_tracebacks(file)
    if file is not None and entry.name in LOGGED and not follower:
        console.log_run(file, _call_text(entry, options))
    if isinstance(options, OfflineOption) and options.offline:
        from seg_transfer.transfer.fetch import OFFLINE

        os.environ[OFFLINE] = "1"


def _call_text(entry: Command, options: Options) -> str:
    """A command with the options that are not at their defaults."""
    given = options.model_dump(exclude_defaults=True)
    return " ".join([f"segtl {entry.name}", *(f"{name}={value}" for name, value in given.items())])


def _echo(result: object, _: Options) -> None:
    typer.echo(printable(with_addresses(str(result)), keep="\n"))


def _nothing(result: object, options: Options) -> None:
    """What most commands do after their result is shown."""


def _group(help_: str, epilog: str, *, completes: bool = False, **settings: Any) -> typer.Typer:
    return typer.Typer(
        add_completion=completes,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help_,
        epilog=epilog,
        **settings,
    )


app = _group(
    "Medical image segmentation that configures itself, on an encoder pretrained on ImageNet.",
    "Steps: [bold]segtl plan DATASET[/], [bold]segtl train cv[/], "
    "[bold]segtl predict -i IMAGES -o OUT[/]. Try it: [bold]segtl demo[/].",
    completes=True,
    invoke_without_command=True,
)
encoders = _group(
    "List the encoders, or fetch their ImageNet weights.",
    "Examples: [bold]segtl encoders[/], [bold]segtl encoders fetch resnet50[/]",
    invoke_without_command=True,
)
for _entry, _kind in commands():
    _owner = encoders if _entry.group == "encoders" else app
    _epilog = _entry.epilog.replace("{metrics}", metrics_help())
    _owner.command(_entry.name, help=_entry.help, epilog=_epilog)(command(_kind, partial(_run, _entry)))
app.add_typer(encoders, name="encoders")


def _show_version(version: bool) -> None:
    if version:
        typer.echo(f"segtl {VERSION}")
        raise typer.Exit


@app.callback()
def _segtl(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@encoders.callback()
def _encoders(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the list as JSON, and nothing else on stdout.")
    ] = False,
) -> None:
    """List the encoders, or fetch their ImageNet weights."""
    if context.invoked_subcommand is None:
        from seg_transfer.cli import show

        with _ends_with_its_output():
            (print_json if as_json else show.show_encoders)(api.encoders())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Arguments without the program's name; None for those of this process.
    """
    console.escape_what_is_not_encodable()
    threading.excepthook = _of_thread
    try:
        with console.shown_on_stderr():
            code = _exit_code(arguments)
            console.end_log(keep=code != USER_ERROR)
            return code
    except (console.OutputClosed, SystemExit):  # Typer and rich exit where a pipe is closed
        return OUTPUT_CLOSED
    finally:
        threading.excepthook = threading.__excepthook__
        console.drop_unwritten()


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="segtl", standalone_mode=False) or 0
    except _usage_error() as error:
        usage = getattr(error, "ctx", None)
        hint = f"`{usage.command_path if usage else 'segtl'} --help` lists the commands and options"
        logger.error(str(UserError(error.format_message().rstrip("."), hint=hint)))
        return USER_ERROR
    except (UserError, SomeCasesFailed) as error:
        logger.error(str(error))
        return SOME_FAILED if isinstance(error, SomeCasesFailed) and error.others_done else USER_ERROR
    except Exception as error:
        known = _known(error)
        if known is None:
            raise
        logger.error(str(known))
        return USER_ERROR
    if code == INTERRUPTED:
        logger.error("interrupted; what is finished is kept: run the same command again to resume")
    return int(code)


def _of_thread(arguments: threading.ExceptHookArgs) -> None:
    """Leave it to the main thread, which waits for what the other one does, to tell of an error that is known."""
    if arguments.exc_value is None or _known(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


def _known(error: BaseException) -> UserError | None:
    """What to tell about an error of the system; None for a defect of segtl."""
    if (reached := limit_reached(error)) is not None:
        return reached
    if not isinstance(error, OSError) or error.errno not in ENVIRONMENT_ERRORS:
        return None
    hint = "free disk space, or check the permissions; then run the same command again"
    return UserError(f"cannot be read or written: {error.strerror}", where=error.filename, hint=hint)


def _usage_error() -> type[typer.TyperException]:
    """What typer raises for a wrong call; before its release 0.29 that of click, which it was built on."""
    if not TYPE_CHECKING and not hasattr(typer, "TyperException"):
        from click import ClickException as TyperException

        return TyperException
    return typer.TyperException
