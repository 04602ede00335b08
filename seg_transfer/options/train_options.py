"""Options of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from seg_transfer.options.base import Cli, Command
from seg_transfer.options.choices import LARGEST_SEED, TrackerName
from seg_transfer.options.common import (
    RUNNING,
    BudgetOptions,
    DeviceOption,
    JsonOption,
    OfflineOption,
    VerbosityOptions,
    WorkersOption,
    WorkOption,
    from_text,
)
from seg_transfer.util.records import Record


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


class RunOptions(BudgetOptions, DeviceOption, WorkersOption):
    """Options of the training of one fold, recorded in its manifest."""

    restart: bool = Field(False, description="Start over instead of resuming.")
    seed: Annotated[int | None, Cli(metavar="N", panel=RUNNING)] = Field(
        None, ge=0, le=LARGEST_SEED, description="Random seed. Default: the plan's."
    )
    track: Annotated[tuple[TrackerName, ...] | None, from_text(_listed), Cli(metavar="LIST")] = Field(
        None,
        min_length=1,
        description="Programs that show the progress: tensorboard, mlflow, wandb. Default: tensorboard, if installed.",
    )


class TaskOptions(Record):
    """Those of :class:`RunOptions` that decide a run's result, as used: None is replaced by the plan's value.

    Checkpoint, manifest and race record them. Each has the name of its option. A new one has a default: the behaviour
    of runs that lack it.
    """

    seed: int
    epochs: int | None = Field(description="budget in epochs; or time_budget")
    time_budget: float | None = Field(description="budget in seconds of training")


class TrainOptions(RunOptions, WorkOption, OfflineOption, JsonOption, VerbosityOptions):
    """Options of :func:`seg_transfer.train`."""

    command = Command(
        "train",
        "Train a fold of the plan and validate it on its held-out cases.",
        "Examples: [bold]segtl train 0[/], [bold]segtl train cv --time-budget 20m[/]\n\n"
        "The same command resumes an interrupted training.",
    )

    fold: Annotated[str, BeforeValidator(str), Cli(metavar="FOLD", argument=True)] = Field(
        description="0 … K-1; cv: all of them; full: train on every case, without validation."
    )
    control: bool = Field(
        False, description="Also train a from-scratch control under the same budget, and compare both."
    )
    devices: Annotated[int | None, Cli(metavar="N", panel=RUNNING)] = Field(
        None,
        ge=1,
        description="Devices of this machine that share every batch, each with a process. Default: one.",
    )
    scratch: Annotated[Path | None, Cli(metavar="DIR", panel=RUNNING)] = Field(
        None,
        description="Copy the preprocessed cases into this folder, on a disk of this machine, and read them there.",
    )
