"""What a user sees while work goes on. All of it goes to stderr; results alone go to stdout.

On a terminal long work shows a bar with the time left, elsewhere a plain line every ten seconds and one at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from seg_transfer.util.files import make_folder
from seg_transfer.util.units import seconds_text

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0

console = Console(stderr=True, highlight=False)
_verbosity: Literal[-1, 0, 1] = 0
_shown: Progress | None = None
_log: Path | None = None


class Show(Protocol):
    """Tells the user how far the work has come."""

    def __call__(self, done: float, note: str = "") -> None:
        """Show ``done`` of the total, with a short note such as the current loss."""


def set_verbosity(level: Literal[-1, 0, 1]) -> None:
    """Choose how much is said: -1 warnings alone, 0 what happens, 1 details as well."""
    global _verbosity
    _verbosity = level


def keep_log(path: Path | None) -> None:
    """Choose the file that :func:`log` appends to; None for none. It is made when there is something to write."""
    global _log
    _log = path


def log(title: str, text: str) -> Path | None:
    """Append what is too long for the user's screen, such as a traceback, to the log, with the time.

    Returns:
        Where it stands; None if no log is kept.
    """
    detail(text)
    if _log is not None:
        make_folder(_log.parent)
        with _log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}\n{text.rstrip()}\n\n")
    return _log


def say(text: str) -> None:
    """Say what happens; not when quiet."""
    if _verbosity >= 0:
        _print(text)


def detail(text: str) -> None:
    """Say more; only when verbose."""
    if _verbosity >= 1:
        _print(text, style="dim")


def warn(text: str) -> None:
    """Say that something asked for is not done, or not as asked; also when quiet."""
    _print(f"warning: {text}", style="yellow")


def fail(text: str) -> None:
    """Say why the work ended; also when quiet."""
    _print(text, style="red")


def track(iterable: Iterable[T], *, total: int, title: str) -> Iterator[T]:
    """Pass the items on and show how many of them are done.

    Args:
        iterable: What is worked on.
        total: How many items there will be.
        title: What the user reads, such as ``preprocessing``.
    """
    if total == 0:
        yield from iterable
        return
    with meter(total=total, title=title) as show:
        for done, item in enumerate(iterable, start=1):
            yield item
            show(done)


def meter(*, total: float, title: str) -> AbstractContextManager[Show]:
    """Show progress that need not be a count of items.

    Example:
        >>> with meter(total=1.0, title="training") as show:
        ...     show(0.3, "loss 0.52")

    Args:
        total: Value of ``done`` at the end; an integer is shown as a count, any other number as a percentage.
        title: What the user reads.
    """
    if _verbosity < 0:
        return _silence()
    return _bar(total, title) if console.is_terminal else _lines(total, title)


@contextmanager
def _silence() -> Iterator[Show]:
    yield lambda done, note="": None


@contextmanager
def _bar(total: float, title: str) -> Iterator[Show]:
    """A bar; bars within bars share one display, since a terminal holds only one at a time."""
    global _shown
    outermost = _shown is None
    if _shown is None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        _shown = Progress(*columns, console=console)
        _shown.start()
    display = _shown
    task = display.add_task(title, total=total, count=_count(0, total), note="")
    try:
        yield lambda done, note="": display.update(task, completed=done, count=_count(done, total), note=note)
    finally:
        if outermost:
            display.stop()
            _shown = None
        else:
            display.remove_task(task)


@contextmanager
def _lines(total: float, title: str) -> Iterator[Show]:
    start = last = time.monotonic()
    latest: tuple[float, str] = (0, "")

    def show(done: float, note: str = "") -> None:
        nonlocal last, latest
        latest = done, note
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and 0 < done < total:
            last = now
            left = seconds_text((now - start) * (total - done) / done)
            _print(f"{title}: {_count(done, total)}, {left} left" + (f", {note}" if note else ""))

    yield show
    done, note = latest
    took = seconds_text(time.monotonic() - start)
    _print(f"{title}: {_count(done, total)} in {took}" + (f", {note}" if note else ""))


def _count(done: float, total: float) -> str:
    return f"{done}/{total}" if isinstance(total, int) else f"{100 * done / total:.0f} %"


def _print(text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
