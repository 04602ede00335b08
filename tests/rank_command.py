"""Runs segtl in a process whose trainings save after every step and, if asked to, get a signal in a certain one.

``RANK_SIGNAL="1 2 SIGTERM"``: rank 1 gets SIGTERM in step 2.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from seg_transfer.__main__ import main
from seg_transfer.training import loop
from seg_transfer.training.trainer import Trainer

_step = Trainer.step


def step(self: Trainer, batch: Any, at: int, progress: float) -> Any:
    rank, when, name = os.environ.get("RANK_SIGNAL", "0 -1 SIGTERM").split()
    if (self.ranks.rank, at) == (int(rank), int(when)):
        signal.raise_signal(signal.Signals[name])
    return _step(self, batch, at, progress)


if __name__ == "__main__":
    Trainer.step = step  # type: ignore[method-assign]
    loop.SECONDS_BETWEEN_SAVES = 0.0
    sys.exit(main())
