"""Starts child processes whatever the calling script is, and whatever signals arrive meanwhile."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from seg_transfer.util.signals import ENDING


@contextmanager
def starting_process() -> Iterator[None]:
    """Hide the calling script, and put off signals, while processes start.

    Spawn would run the script in each process, which fails for one without ``if __name__ == "__main__"`` and for one
    read from standard input. A process whose parent is interrupted before it has sent everything shows a traceback, and
    so does one that Ctrl-C reaches before it can heed that: it inherits that SIGINT is ignored.
    """
    caller = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    arrived: list[int] = []
    previous = {}
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is not None:
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in ENDING:
            if callable(signal.getsignal(number)):
                previous[number] = signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        sys.modules["__main__"] = caller
        for number, handler in previous.items():
            signal.signal(number, handler)
        for late in arrived[:1]:
            signal.raise_signal(late)
