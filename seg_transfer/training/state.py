"""How far a run has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from seg_transfer.training.history import Row


@dataclass
class State:
    """How far training has come; together with the trainer's tensors, all that resuming needs.

    Attributes:
        step: Steps done, skipped ones included.
        seconds: Training time.
        losses: Of the epoch at hand.
        skipped: Steps whose loss or gradient was not finite.
        skipped_in_a_row: Such steps just before this one.
        rows: Of the epochs done.
        weights: What was loaded into the encoder.
    """

    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    rows: list[Row] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)
