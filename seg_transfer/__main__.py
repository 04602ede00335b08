"""The entry point of ``segtl`` and ``python -m seg_transfer``: ends every command in the same way when interrupted."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from seg_transfer.errors import INTERRUPTED, USER_ERROR
from seg_transfer.util.limits import limit_reached
from seg_transfer.util.signals import heeded


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; on Ctrl-C or a request to end, say what is kept.

    Signals count from here on, before the slow imports; with a handler they also end the first process of a container.
    """
    _read_names_as_utf8()
    _open_closed_streams()
    for number in heeded():
        signal.signal(number, _interrupt)
    try:
        from seg_transfer.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        return INTERRUPTED
    except Exception as error:  # of the imports: the command line handles its own
        reached = limit_reached(error)
        if reached is None:
            raise
        sys.stderr.write(f"{reached}\n")
        return USER_ERROR


def _read_names_as_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: libraries take names for UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


def _open_closed_streams() -> None:
    """Give the standard streams that the caller closed, as by ``>&-``, to ``/dev/null``.

    Else a file that is opened later gets the number of one, and libraries write their messages into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
