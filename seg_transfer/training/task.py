"""The task of a run, and whether a run on disk has the same task and plan."""

from __future__ import annotations

from typing import Any

from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions, TaskOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.schedule import Budget


class Task(TaskOptions):
    """Everything but the plan that decides a run's result. A run is resumed only with the same task and plan."""

    fold: Fold

    @classmethod
    def of(cls, plan: Plan, fold: Fold, options: RunOptions) -> Task:
        """Options, or the plan's values where they are not given; a budget of either kind replaces the plan's."""
        recipe = plan.recipe
        used = options.model_dump(include=set(TaskOptions.model_fields))
        if options.seed is None:
            used["seed"] = recipe.seed
        if options.epochs is None and options.time_budget is None:
            used |= {"epochs": recipe.epochs, "time_budget": recipe.time_budget}
        return cls(fold=fold, **used)

    def resumed(self, recorded: dict[str, Any], options: RunOptions, run: RunFolder) -> Task:
        """The task to resume: options that are not given are taken from the record.

        Args:
            recorded: The recorded task.
            options: Options of the present call.
            run: The run's folder, for messages.

        Raises:
            UserError: If the recorded task differs.
        """
        before = {name: recorded.get(name, field.default) for name, field in type(self).model_fields.items()}
        not_given = {name for name in TaskOptions.model_fields if getattr(options, name) is None}
        budget = {"epochs", "time_budget"}
        if not budget <= not_given:
            not_given -= budget  # one of the two is given: the other is not in force
        task = self.model_copy(update={name: before[name] for name in not_given})
        different = [name for name, value in task.model_dump().items() if before[name] != value]
        if different:
            was = ", ".join(f"{name} {before[name]} (now {getattr(task, name)})" for name in different)
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
