"""Runs segtl in a process whose trainings save after every step and, if asked to, get a signal in a certain one.

``RANK_SIGNAL="1 2 SIGTERM"``: rank 1 gets SIGTERM in step 2. ``RANKS=2``: the process forks when everything is
imported, which takes longer than a tiny training, and tells both what torchrun tells its processes. It draws nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from lightning_fabric.plugins.environments.lightning import find_free_network_port

from seg_transfer.__main__ import main
from seg_transfer.training import loop
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.files import write_text
from seg_transfer.workflow import validate

_step = Trainer.step


def step(self: Trainer, batch: Any, at: int, progress: float) -> Any:
    rank, when, name = os.environ.get("RANK_SIGNAL", "0 -1 SIGTERM").split()
    if (self.ranks.rank, at) == (int(rank), int(when)):
        signal.raise_signal(signal.Signals[name])
    return _step(self, batch, at, progress)


def fork(ranks: int) -> list[int]:
    """The processes forked; this one is rank 0, and in each of them the list is empty."""
    validate.save_overlay = loop.draw_progress = lambda path, *_, **__: write_text(path, "drawn")
    fixed = {"TORCHELASTIC_RUN_ID": "forked", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= fixed | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    forked: list[int] = []
    for rank in reversed(range(ranks)):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        child = os.fork() if rank else 0
        if rank and not child:
            return []
        forked += [child] if child else []
    return forked


if __name__ == "__main__":
    Trainer.step = step  # type: ignore[method-assign]
    loop.SECONDS_BETWEEN_SAVES = 0.0
    children = fork(int(os.environ["RANKS"])) if "RANKS" in os.environ else []
    code = main()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(code, *codes) if codes else code)
