"""The entry point of ``segtl`` and ``python -m seg_transfer``: ends every command in the same way when interrupted."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from seg_transfer.errors import INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; on Ctrl-C or a request to end, say what is kept.

    Signals count from here on, before the slow imports; with a handler they also end the first process of a container.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        from seg_transfer.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was begun\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
