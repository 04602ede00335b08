"""What a run was asked to do, and how far it has come."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.training.history import Row
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.schedule import Budget


@dataclass(frozen=True)
class RunOptions:
    """What belongs to one run and is not planned; recorded with it.

    Args:
        device: ``cpu``, ``cuda:N`` or ``mps``.
        epochs: Budget in epochs in place of the plan's.
        time_budget: Budget in seconds of training in place of the plan's.
        restart: Throw away what is there and start over.
        seed: In place of the plan's.
        workers: 0: batches are made in between steps; more: one thread reads ahead. The batches are the same.
        threads: Of torch on the CPU; None leaves them as they are.
    """

    device: str = "cpu"
    epochs: int | None = None
    time_budget: float | None = None
    restart: bool = False
    seed: int | None = None
    workers: int = 0
    threads: int | None = None


@dataclass(frozen=True)
class Task:
    """What decides a run's result beside its plan; a run is only resumed by the same task of the same plan."""

    fold: Fold
    seed: int
    epochs: int | None
    time_budget: float | None

    @classmethod
    def of(cls, plan: Plan, fold: Fold, options: RunOptions) -> Task:
        """The plan's own figures where the options give none; a budget of either kind replaces the plan's."""
        recipe = plan.recipe
        seed = recipe.seed if options.seed is None else options.seed
        if options.epochs is None and options.time_budget is None:
            return cls(fold, seed, recipe.epochs, recipe.time_budget)
        return cls(fold, seed, options.epochs, options.time_budget)

    def resumed(self, recorded: dict[str, Any], options: RunOptions, run: RunFolder) -> Task:
        """The task to go on with: options that are not given are those recorded.

        Raises:
            UserError: If something else was trained here.
        """
        task = self
        if options.epochs is None and options.time_budget is None:
            task = replace(task, epochs=recorded["epochs"], time_budget=recorded["time_budget"])
        if options.seed is None:
            task = replace(task, seed=recorded["seed"])
        different = [name for name, value in asdict(task).items() if recorded[name] != value]
        if different:
            was = ", ".join(f"{name} {recorded[name]} (now {getattr(task, name)})" for name in different)
            hint = "give the same options to go on, or --restart to start over"
            raise UserError(f"the training here was started with {was}", where=run.path, hint=hint)
        return task

    def budget(self, steps_per_epoch: int) -> Budget:
        """The budget in steps and seconds."""
        return Budget(None if self.epochs is None else self.epochs * steps_per_epoch, self.time_budget)


def check_plan(plan: Plan, header: dict[str, Any], run: RunFolder) -> None:
    """Refuse to go on with another plan than the run was started with.

    Args:
        plan: What is to be trained now.
        header: Of the run's checkpoint, which holds its plan.
        run: The run.

    Raises:
        UserError: If another plan was trained here.
    """
    if different := plan.differs_in(Plan.from_content(header["plan"], where=run.path)):
        hint = "train it in another folder, or with --restart to start over"
        what = f"the training here was started with another plan, which differs in {', '.join(different)}"
        raise UserError(what, where=run.path, hint=hint)


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
