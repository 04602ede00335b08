"""Log records and progress bars of the command line, on stderr; results go to stdout.

A file in the work folder keeps what commands said, and tracebacks of failed cases. These make the folder if need be.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from seg_transfer.errors import printable, printable_message
from seg_transfer.util.addresses import with_addresses
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.progress import TRACEBACKS, BarHandler, ProgressUpdate, progress_text

if TYPE_CHECKING:
    from rich.progress import Progress

LOGGER = logging.getLogger("seg_transfer")
_SPACE = "\ue000"
"""Stands for a space that is no place to break a line."""
SECONDS_BEFORE_LOG = 10.0
STYLES = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red"}


class OutputClosed(KeyboardInterrupt):
    """Nobody reads the output any more, as after ``| head``: the command ends as when interrupted."""


def wrapped(text: str, width: int) -> str:
    """Break lines at spaces, but not inside commands in backticks; longer words and paths stay whole."""
    whole = re.sub("`[^`\n]*`", lambda command: command[0].replace(" ", _SPACE), text)
    lines = []
    for line in whole.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        wrapper = textwrap.TextWrapper(width, subsequent_indent=f"{indent}  ", replace_whitespace=False)
        wrapper.break_long_words = wrapper.break_on_hyphens = False
        lines += wrapper.wrap(line) or [""]
    return "\n".join(lines).replace(_SPACE, " ")


class SafeConsole(Console):
    """A console on which no printed text, a foreign name in it included, can control the terminal.

    Raises:
        OutputClosed: By printing, if nobody reads the output any more.
    """

    def on_broken_pipe(self) -> None:
        raise OutputClosed

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable_message(with_addresses(text)), **settings)


def escape_what_is_not_encodable() -> None:
    """Let no character fail that the locale cannot show, such as ± in ASCII."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what is printed.

    Raises:
        OutputClosed: If nobody reads it any more.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def drop_unwritten() -> None:
    """Forget what could not be written, which Python would else complain about when it ends."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)


@contextmanager
def shown_on_stderr() -> Iterator[None]:
    """Print the package's log records until the context ends; warnings get a prefix.

    Progress is a bar with the time left on a terminal, elsewhere a line every ten seconds.
    """
    console = SafeConsole(stderr=True, highlight=False)
    handler = TerminalHandler(console) if console.is_terminal else ConsoleHandler(console)
    before = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # a library's handler at the root logger would print each line twice
    try:
        yield
    finally:
        log_tracebacks(None)
        end_log(keep=False)
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]


def set_level(level: int) -> None:
    """Set the lowest level that is shown."""
    LOGGER.setLevel(level)


def log_tracebacks(path: Path | None) -> None:
    """Append tracebacks of failed cases to this file; None: to no file."""
    logger = logging.getLogger(TRACEBACKS)
    for handler in [handler for handler in logger.handlers if isinstance(handler, TracebackFile)]:
        logger.removeHandler(handler)
        handler.close()
    if path is not None:
        logger.addHandler(TracebackFile(path))


def log_run(path: Path, command: str) -> None:
    """Append the command and what it says to this file, until :func:`end_log`."""
    end_log(keep=False)
    LOGGER.addHandler(RunLog(path, command))


def end_log(*, keep: bool) -> None:
    """Write what is not yet written of a command's log, or forget it."""
    for handler in [handler for handler in LOGGER.handlers if isinstance(handler, RunLog)]:
        LOGGER.removeHandler(handler)
        if keep:
            handler.write()


class ConsoleHandler(logging.Handler):
    """Prints each record as plain text; only on a terminal lines are wrapped."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out tracebacks, unless verbose."""
        return record.name != TRACEBACKS or LOGGER.isEnabledFor(logging.DEBUG)

    def emit(self, record: logging.LogRecord) -> None:
        text = with_addresses(self.format(record))
        if record.name == TRACEBACKS:
            text = text.replace("\n", "\n  ")
        if record.levelno == logging.WARNING:
            text = f"warning: {text}"
        if self.console.is_terminal:
            text = wrapped(text, self.console.width)
        style = STYLES.get(record.levelno)
        with suppress(OSError):  # a log on a full disk stops no training
            self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class TerminalHandler(ConsoleHandler, BarHandler):
    """Also draws progress bars; nested bars share one display, since a terminal holds only one at a time."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.display: Progress | None = None

    @contextmanager
    def bar(self, total: float, title: str) -> Iterator[ProgressUpdate]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        outermost = self.display is None
        if self.display is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self.display = Progress(*columns, console=self.console)
            self.display.start()
        display = self.display
        task = display.add_task(printable(title), total=total, count=progress_text(0, total), note="")
        try:
            yield lambda done, note="": display.update(
                task, completed=done, count=progress_text(done, total), note=note
            )
        finally:
            if outermost:
                display.stop()
                self.display = None
            else:
                display.remove_task(task)


class TracebackFile(logging.FileHandler):
    """Appends records with their time to a file; file and folder are made with the first record."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s\n", datefmt="%Y-%m-%d %H:%M:%S"))

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, safe to show on a terminal."""
        return printable(with_addresses(super().format(record)), keep="\n")

    def handleError(self, record: logging.LogRecord) -> None:
        """Stay silent: the cause of the failure is shown anyway, where the disk is full for instance."""

    def _open(self) -> TextIOWrapper:
        make_folder(Path(self.baseFilename).parent)
        return super()._open()


class RunLog(logging.Handler):
    """Keeps a command and what it says, for a file in its work folder.

    A command that soon ends with a user's error changes no file: lines wait for ten seconds, or for the end.
    """

    def __init__(self, path: Path, command: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        self.path, self.started = path, time.monotonic()
        self.waiting: list[str] = []
        self.emit(logging.makeLogRecord({"msg": command}))

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out tracebacks, which have a handler of their own."""
        return record.name != TRACEBACKS

    def emit(self, record: logging.LogRecord) -> None:
        self.waiting.append(printable(with_addresses(self.format(record)), keep="\n") + "\n")
        if time.monotonic() - self.started > SECONDS_BEFORE_LOG:
            self.write()

    def write(self) -> None:
        """Append what waits, if the folder is there; a full disk or a read-only folder stops no command."""
        with suppress(OSError):
            if self.path.parent.is_dir():
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(self.waiting)
        self.waiting = []
