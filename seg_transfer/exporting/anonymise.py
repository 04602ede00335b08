"""Anonymise a plan for export: remove the names of cases and data set, paths, reasons and estimates."""

from __future__ import annotations

from collections.abc import Iterable

from seg_transfer.data.splits import Split
from seg_transfer.planning.plan import Plan

REMOVED = "removed"


def anonymise(plan: Plan, *, name: str) -> Plan:
    """Remove what identifies the data and the machine.

    Cases are numbered in the order of ``data.cases``, which keeps their number and the sizes of the folds. Reasons
    quote options, including paths; estimates describe the machine. Names of channels and labels stay, since they
    describe the model's input and output.

    Args:
        plan: The plan as trained.
        name: New name of the data set.
    """
    new_names = {case: f"anonymous-{index}" for index, case in enumerate(plan.data.cases, start=1)}

    def renamed(cases: Iterable[str]) -> tuple[str, ...]:
        return tuple(new_names[case] for case in cases)

    weights = plan.model.weights
    if weights.path is not None:
        weights = weights.model_copy(update={"path": REMOVED})
    splits = tuple(
        Split(train=renamed(split.train), validation=renamed(split.validation)) for split in plan.recipe.splits
    )
    race = plan.recipe.race
    if race is not None:
        race = race.model_copy(update={"held_out": tuple(map(renamed, race.held_out))})
    return plan.model_copy(
        update={
            "data": plan.data.model_copy(update={"dataset": name, "cases": tuple(new_names.values())}),
            "model": plan.model.model_copy(update={"weights": weights}),
            "recipe": plan.recipe.model_copy(update={"splits": splits, "race": race}),
            "reasons": (),
            "expected": None,
        }
    )
