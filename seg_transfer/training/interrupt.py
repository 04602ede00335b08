"""Defers Ctrl-C and termination to the end of a training step, so that checkpoints are consistent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from seg_transfer.util.signals import heeded


class StopRequest:
    """Whether a signal to stop has arrived."""

    requested = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Record Ctrl-C and what else asks a command to end; a second signal raises ``KeyboardInterrupt`` at once.

    Signals that are ignored stay so, but for Ctrl-C, which shells let every job in the background ignore. Outside the
    main thread, where Python allows no handlers, none is recorded.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, *heeded())}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
