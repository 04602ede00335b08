"""``manifest.json``: the record of one run. Imports no torch, so that ``segtl status`` is fast."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from seg_transfer.options.train_options import TaskOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.strategy import Strategy
from seg_transfer.training.ranks import current
from seg_transfer.util.environment import training_workers
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.util.texts import version_of
from seg_transfer.version import DISTRIBUTION, VERSION

if TYPE_CHECKING:
    from seg_transfer.options.train_options import RunOptions
    from seg_transfer.training.task import Task
    from seg_transfer.transfer.unfreezing import StrategySchedule
    from seg_transfer.transfer.weights import LoadReport

PACKAGES = ("torch", "timm", "lightning-fabric", "numpy", "blosc2", "safetensors")


class Cases(Record):
    """Cases of a run."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = Field(description="held out")

    @classmethod
    def of(cls, plan: Plan, fold: Fold) -> Self:
        """The split of a fold, or every case."""
        if fold == "full":
            return cls(train=plan.data.cases, validation=())
        split = plan.recipe.splits[fold]
        return cls(train=split.train, validation=split.validation)


class UsedOptions(TaskOptions):
    """Options of one run, as they were used."""

    workers: int
    threads: int = Field(description="of torch on the CPU")
    devices: int = Field(1, description="that shared every batch, when it was last trained")

    @classmethod
    def of(cls, task: Task, options: RunOptions, *, threads: int) -> Self:
        """The options of a run.

        Args:
            task: Seed and budget.
            options: Device and workers.
            threads: torch's threads on the CPU.
        """
        return cls(
            **task.model_dump(exclude={"fold"}),
            workers=training_workers(options.device, options.workers),
            threads=threads,
            devices=current().size,
        )


class LoadedWeights(Record):
    """How the encoder's weights were loaded."""

    share: float = Field(description="share of the encoder's elements that is pretrained")
    elements: dict[str, int] = Field(description="how they were loaded -> number of elements")
    adapted: tuple[str, ...] = Field(description="tensors that were changed to fit")
    random: tuple[str, ...] = Field(description="tensors that start from random values")
    place: str = Field(description="where they are in a file with prefixes or several state dicts")

    @classmethod
    def of(cls, report: LoadReport) -> Self:
        """The record of a load report."""
        return cls(
            share=report.share,
            elements={name: sum(group.values()) for name, group in report.groups.items()},
            adapted=tuple(sorted(report.adapted)),
            random=tuple(sorted(report.random)),
            place=report.place,
        )


class LearningStages(Record):
    """State of each encoder stage (0 the finest) at the start and at the end."""

    strategy: Strategy
    at_start: dict[str, str]
    at_end: dict[str, str]
    elements_never_learning: int
    elements: int

    @classmethod
    def of(cls, schedule: StrategySchedule) -> Self:
        """The record of a schedule."""
        learning = {id(p) for group in schedule.parameter_groups(1.0, 0.0) for p in group["params"]}
        parameters = [p for _, p in schedule.network.named_parameters()]
        return cls(
            strategy=schedule.strategy,
            at_start={str(stage): state for stage, state in schedule.describe(0.0).items()},
            at_end={str(stage): state for stage, state in schedule.describe(1.0).items()},
            elements_never_learning=sum(p.numel() for p in parameters if id(p) not in learning),
            elements=sum(p.numel() for p in parameters),
        )


class RunResult(Record):
    """Progress of a run and Dice at its end."""

    finished: bool
    progress: float = Field(description="share of the budget that is used")
    epochs: int
    steps: int
    seconds: float = Field(description="training time")
    planned_steps: int | None = Field(
        default=None, description="estimated when planning, for the time budget; null with a budget in epochs"
    )
    cut_short: bool = Field(
        default=False, description="the time budget ended before half of the planned steps, and before 300"
    )
    skipped: int = Field(default=0, description="steps whose loss or gradient was not finite")
    dice: dict[str, float | None] | None = Field(
        default=None, description="on random validation patches, by label; null: label absent"
    )
    mean_dice: float | None = Field(default=None, description="mean over the labels that occur")
    head: dict[str, Any] | None = Field(default=None, description="figures of the fit, where a classifier is fitted")

    @property
    def shortfall(self) -> str | None:
        """How a schedule was cut short by its time budget; None if it was not."""
        if not self.cut_short:
            return None
        return f"cut short by its time budget: {self.steps} of about {self.planned_steps} planned steps"


class Manifest(JsonRecord):
    """The record of one run. Its plan is in the folder above and in every checkpoint."""

    noun: ClassVar[str] = "run's manifest"
    if_missing: ClassVar[str] = "train this fold"
    if_wrong: ClassVar[str] = "delete this file and train again; trained weights are kept"
    if_older: ClassVar[str] = "use the segtl that trained this run, or train again with --restart"

    version: Literal[2] = 2
    plan: str = Field(description="hash of the plan, for information: runs are found by comparing plans")
    fold: Fold
    cases: Cases
    options: UsedOptions
    versions: dict[str, str] = Field(description="of Python and the packages that decide a result")
    device: str
    weights: LoadedWeights
    frozen: LearningStages
    result: RunResult


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version(), DISTRIBUTION: VERSION} | {name: version_of(name) for name in PACKAGES}
