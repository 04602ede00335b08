"""Training history: one row per epoch, as CSV and, where it is installed, for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from seg_transfer.util.disk_space import room_for
from seg_transfer.util.files import whole_file
from seg_transfer.util.statistics import mean_of_defined, none_if_undefined

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Row(TypedDict):
    """One epoch.

    ``dice`` and ``validation_loss`` are those of the averaged weights on random validation patches, the same ones after
    every epoch; None for a label that is in none of them, and where no case is held out. Runs of earlier versions have
    no ``validation_loss``.
    ``rates`` (by parameter group) and ``stages`` (state of each encoder stage, 0 the finest) are those of the last
    step. ``skipped`` counts all steps so far whose loss or gradient was not finite.
    """

    epoch: int
    step: int
    seconds: float
    progress: float
    loss: float | None
    validation_loss: NotRequired[float | None]
    dice: dict[str, float | None]
    rates: dict[str, float]
    stages: dict[str, str]
    skipped: int


def mean_dice(row: Row) -> float | None:
    """Mean over the labels that occur, or None."""
    return none_if_undefined(mean_of_defined(row["dice"].values()))


def flat(row: Row) -> dict[str, float | int | str | None]:
    """A row as column -> value."""
    scalars: dict[str, float | int | str | None] = {
        "epoch": row["epoch"],
        "step": row["step"],
        "seconds": row["seconds"],
        "progress": row["progress"],
        "loss": row["loss"],
        "validation_loss": row.get("validation_loss"),
        "skipped": row["skipped"],
    }
    frozen = " ".join(stage for stage, state in row["stages"].items() if state == "frozen")
    return (
        scalars
        | {"dice": mean_dice(row)}
        | {f"dice {label}": value for label, value in row["dice"].items()}
        | {f"rate {group}": value for group, value in row["rates"].items()}
        | {"frozen stages": frozen}
    )


def scalars(row: Row) -> dict[str, float]:
    """The figures of a row that are known: name, such as ``dice/liver``, -> value."""
    figures = {name: value for name, value in flat(row).items() if isinstance(value, int | float)}
    return {name.replace(" ", "/", 1): value for name, value in figures.items() if name not in ("step", "epoch")}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write all rows; no file without rows."""
    if not rows:
        return
    table = [flat(row) for row in rows]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


class TensorBoard:
    """Writes rows as scalars; a resumed run replaces those after its first step. Without TensorBoard it is silent."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        with suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def add(self, row: Row) -> None:
        if self._writer is not None:
            with room_for(self._folder, self._folder):
                self._add(row, self._writer)

    def _add(self, row: Row, writer: SummaryWriter) -> None:
        for name, value in scalars(row).items():
            writer.add_scalar(name, value, row["step"])
        writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
