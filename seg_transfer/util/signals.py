"""Signals that ask a command to end."""

from __future__ import annotations

import signal

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Besides Ctrl-C: of the system, of a terminal that closes, and of schedulers whose time limit is near. Windows has the
first only."""


def heeded() -> list[signal.Signals]:
    """Those of :data:`ENDING` that are not ignored, as SIGHUP is under nohup."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
