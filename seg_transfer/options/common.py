"""Options that several commands share, one base class each, and parsers of their text forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from seg_transfer.errors import UserError
from seg_transfer.options.base import Cli, Options
from seg_transfer.options.choices import LARGEST_SEED, LONGEST_TIME, MOST_EPOCHS
from seg_transfer.util.units import bytes_from_text, seconds_from_text

DEFAULT_WORK = Path("segtl-work")
STDOUT = Path("-")
"""In place of a file: standard output."""
RUNNING = "Running"
CASE_WORKERS = (
    "Worker processes; 0: all in this process. Default: one per core, at most 8; none for a few seconds of work."
)


def from_text(read: Callable[[str], object]) -> BeforeValidator:
    """A validator that parses text with ``read`` and passes other types on."""

    def parse(value: Any) -> Any:
        return read(value) if isinstance(value, str) else value

    return BeforeValidator(parse)


def _as_texts(value: Any) -> Any:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return tuple(str(item) for item in value)


Bytes = Annotated[int, from_text(bytes_from_text)]
"""``8GB`` or a number of bytes."""
Seconds = Annotated[float, from_text(seconds_from_text)]
"""``30m`` or a number of seconds."""
Names = Annotated[tuple[str, ...], BeforeValidator(_as_texts)]
"""A list of names; numbers are turned into texts."""
FoldNames = Annotated[Names, from_text(lambda text: tuple(text.split(",")))]
"""``0,2``, or a list of folds."""


class WorkOption(Options):
    """The work folder."""

    work: Annotated[Path, Cli("-w/--work", metavar="DIR", panel=RUNNING)] = Field(
        DEFAULT_WORK, description="Work folder."
    )


class DeviceOption(Options):
    """The device."""

    device: Annotated[str, Cli(metavar="NAME", panel=RUNNING)] = Field(
        "auto", description="auto, cpu, cuda, cuda:1 or mps."
    )


class WorkersOption(Options):
    """The number of worker processes."""

    workers: Annotated[int | None, Cli(metavar="N", panel=RUNNING)] = Field(None, ge=0, description=CASE_WORKERS)


class ClusterOption(Options):
    """Where work that is one task per case is done."""

    cluster: Annotated[str | None, Cli(metavar="CLUSTER", panel=RUNNING)] = Field(
        None,
        min_length=1,
        description="Work on a cluster of Dask in place of --workers: its scheduler, such as tcp://head:8786; local: "
        "one worker per core; or a .yaml file of jobs for dask-jobqueue.",
    )


class SeedOption(Options):
    """The random seed."""

    seed: Annotated[int, Cli(metavar="N", panel=RUNNING)] = Field(0, ge=0, le=LARGEST_SEED, description="Random seed.")


class OfflineOption(Options):
    """No downloads; in Python, set the environment variable ``HF_HUB_OFFLINE``."""

    offline: Annotated[bool, Cli(panel=RUNNING, only=True)] = Field(
        False, description="Never download: weights have to be on this machine."
    )


class VerbosityOptions(Options):
    """Verbosity of the log."""

    verbose: Annotated[bool, Cli("-v/--verbose", panel=RUNNING, only=True)] = Field(
        False, description="Show details as well."
    )
    quiet: Annotated[bool, Cli("-q/--quiet", panel=RUNNING, only=True)] = Field(
        False, description="Show only results and warnings."
    )

    @model_validator(mode="after")
    def _is_one_verbosity(self) -> VerbosityOptions:
        at_most_one(self, "verbose", "quiet")
        return self


class JsonOption(Options):
    """Results as JSON."""

    as_json: Annotated[bool, Cli("--json", panel=RUNNING, only=True)] = Field(
        False, description="Print the result as JSON, and nothing else on stdout."
    )


class BudgetOptions(Options):
    """The training budget."""

    epochs: Annotated[int | None, Cli(metavar="N")] = Field(None, ge=1, le=MOST_EPOCHS, description="Number of epochs.")
    time_budget: Annotated[Seconds | None, Cli(metavar="TIME")] = Field(
        None, gt=0, le=LONGEST_TIME, description="Training time per fold: seconds, or a text such as 30m."
    )

    @model_validator(mode="after")
    def _is_one_budget(self) -> BudgetOptions:
        at_most_one(self, "epochs", "time_budget")
        return self


class FoldsOption(Options):
    """The trained folds to use."""

    folds: Annotated[FoldNames | None, Cli(metavar="LIST")] = Field(
        None, description="Folds of the current plan, such as 0,2 or full. Default: all trained ones."
    )


def at_most_one(options: Options, *names: str) -> None:
    """Refuse more than one of several fields that exclude each other; None and False mean not given.

    Raises:
        UserError: If two or more are given.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if not any(getattr(options, name) is absent for absent in (None, False))
    ]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other", hint="give one of them")
