"""The task of a run, and whether a run on disk has the same task and plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.schedule import Budget


@dataclass(frozen=True)
class Task:
    """Everything but the plan that decides a run's result. A run is resumed only with the same task and plan."""

    fold: Fold
    seed: int
    epochs: int | None
    time_budget: float | None

    @classmethod
    def of(cls, plan: Plan, fold: Fold, options: RunOptions) -> Task:
        """Options, or the plan's values where they are not given; a budget of either kind replaces the plan's."""
        recipe = plan.recipe
        seed = recipe.seed if options.seed is None else options.seed
        if options.epochs is None and options.time_budget is None:
            return cls(fold, seed, recipe.epochs, recipe.time_budget)
        return cls(fold, seed, options.epochs, options.time_budget)

    def resumed(self, recorded: dict[str, Any], options: RunOptions, run: RunFolder) -> Task:
        """The task to resume: options that are not given are taken from the record.

        Args:
            recorded: The recorded task.
            options: Options of the present call.
            run: The run's folder, for messages.

        Raises:
            UserError: If the recorded task differs.
        """
        task = self
        if options.epochs is None and options.time_budget is None:
            task = replace(task, epochs=recorded["epochs"], time_budget=recorded["time_budget"])
        if options.seed is None:
            task = replace(task, seed=recorded["seed"])
        different = [name for name, value in asdict(task).items() if recorded[name] != value]
        if different:
            was = ", ".join(f"{name} {recorded[name]} (now {getattr(task, name)})" for name in different)
            hint = "give the same options to resume, or --restart to start over"
            raise UserError(f"the training here was started with {was}", where=run.path, hint=hint)
        return task

    def budget(self, steps_per_epoch: int) -> Budget:
        """The budget in steps and seconds."""
        return Budget(None if self.epochs is None else self.epochs * steps_per_epoch, self.time_budget)


def check_plan(plan: Plan, header: dict[str, Any], run: RunFolder) -> None:
    """Refuse to resume a run with another plan.

    Args:
        plan: The plan to train.
        header: Header of the run's checkpoint, which has its plan.
        run: The run's folder, for messages.

    Raises:
        UserError: If the plans differ.
    """
    if different := plan.differs_in(Plan.from_content(header["plan"], where=run.path)):
        hint = "train it in another folder, or with --restart to start over"
        what = f"the training here was started with another plan, which differs in {', '.join(different)}"
        raise UserError(what, where=run.path, hint=hint)
