"""Progress of long work: a bar where a handler of the package's logger draws one, otherwise log lines.

The lines are records of level INFO, one every ten seconds and one at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from seg_transfer.util.units import seconds_text

logger = logging.getLogger(__name__)

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
TRACEBACKS = "seg_transfer.tracebacks"
"""Name of the logger of tracebacks, so that a handler can write them to their own file."""


class ProgressUpdate(Protocol):
    """Reports progress to the user."""

    def __call__(self, done: float, note: str = "") -> None:
        """Show ``done`` of the total, with a short note such as the current loss."""


class BarHandler(logging.Handler):
    """A handler of the logger ``seg_transfer`` that draws bars in place of log lines."""

    def bar(self, total: float, title: str) -> AbstractContextManager[ProgressUpdate]:
        """Show progress until the context ends; arguments as for :func:`meter`."""
        raise NotImplementedError


def track(iterable: Iterable[T], *, total: int, title: str) -> Iterator[T]:
    """Yield the items and show how many of them are done.

    Args:
        iterable: The items.
        total: Number of items.
        title: Shown beside the progress, such as ``preprocessing``.
    """
    if total == 0:
        yield from iterable
        return
    with meter(total=total, title=title) as show:
        for done, item in enumerate(iterable, start=1):
            yield item
            show(done)


def meter(*, total: float, title: str) -> AbstractContextManager[ProgressUpdate]:
    """Show progress that need not be a count of items; silent below the level INFO.

    Example:
        >>> with meter(total=1.0, title="training") as show:
        ...     show(0.3, "loss 0.52")

    Args:
        total: Value of ``done`` at the end; an integer is shown as a count, any other number as a percentage.
        title: Shown beside the progress.
    """
    if logger.isEnabledFor(logging.INFO):
        for handler in logging.getLogger("seg_transfer").handlers:
            if isinstance(handler, BarHandler):
                return handler.bar(total, title)
    return _lines(total, title)


def progress_text(done: float, total: float) -> str:
    """``3/4`` for an integer total, otherwise a percentage."""
    return f"{done}/{total}" if isinstance(total, int) else f"{100 * done / total:.0f} %"


@contextmanager
def _lines(total: float, title: str) -> Iterator[ProgressUpdate]:
    start = last = time.monotonic()
    latest: tuple[float, str] = (0, "")

    def show(done: float, note: str = "") -> None:
        nonlocal last, latest
        latest = done, note
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and 0 < done < total:
            last = now
            left = seconds_text((now - start) * (total - done) / done)
            logger.info(f"{title}: {progress_text(done, total)}, {left} left" + (f", {note}" if note else ""))

    yield show
    done, note = latest
    took = seconds_text(time.monotonic() - start)
    logger.info(f"{title}: {progress_text(done, total)} in {took}" + (f", {note}" if note else ""))
