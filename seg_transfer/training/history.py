"""What is recorded of a training: one row per epoch, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from torch.utils.tensorboard import SummaryWriter

from seg_transfer.util.files import whole_file
from seg_transfer.util.statistics import mean_of_defined, none_if_undefined


class Row(TypedDict):
    """One epoch.

    ``dice`` is that of random validation patches with the averaged weights, None for a label that is in none of them;
    ``rates`` are learning rates by group, and ``stages`` what each encoder stage (0 the finest) does, both at the
    epoch's last step; ``skipped`` counts steps whose loss or gradient was not finite.
    """

    epoch: int
    step: int
    seconds: float
    progress: float
    loss: float | None
    dice: dict[str, float | None]
    rates: dict[str, float]
    stages: dict[str, str]
    skipped: int


def mean_dice(row: Row) -> float | None:
    """Mean over the labels that occur; None if none does."""
    return none_if_undefined(mean_of_defined(row["dice"].values()))


def flat(row: Row) -> dict[str, float | int | str | None]:
    """One row of the table: column -> value."""
    scalars = {name: row[name] for name in ("epoch", "step", "seconds", "progress", "loss", "skipped")}
    frozen = " ".join(stage for stage, state in row["stages"].items() if state == "frozen")
    return (
        scalars
        | {"dice": mean_dice(row)}
        | {f"dice {label}": value for label, value in row["dice"].items()}
        | {f"rate {group}": value for group, value in row["rates"].items()}
        | {"frozen stages": frozen}
    )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the whole table; whole or not at all. Nothing is written before the first epoch ends."""
    if not rows:
        return
    table = [flat(row) for row in rows]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


class TensorBoard:
    """Writes rows as scalars; a resumed run overwrites what lies beyond the step it goes on from."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, row: Row) -> None:
        for name, value in flat(row).items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                group, _, label = name.partition(" ")
                self._writer.add_scalar(f"{group}/{label}" if label else name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
