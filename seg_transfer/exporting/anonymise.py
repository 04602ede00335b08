"""What of a plan leaves the machine: decisions and figures, but nobody's names, paths or remarks."""

from __future__ import annotations

from seg_transfer.data.splits import Split
from seg_transfer.planning.plan import Plan

REMOVED = "removed"


def stripped(plan: Plan, *, name: str) -> Plan:
    """A plan without the names of cases and data set, the path of its weights, reasons and estimates.

    Cases are numbered by their place in ``data.cases``, so that their number and the sizes of the folds stay. Reasons
    quote the user's options, paths among them; estimates are about the user's machine. Names of channels and labels
    stay, since they say what the model reads and predicts.

    Args:
        plan: As it was trained.
        name: What to call the data set.
    """
    numbers = {case: f"anonymous-{index}" for index, case in enumerate(plan.data.cases, start=1)}
    weights = plan.model.weights
    if weights.path is not None:
        weights = weights.model_copy(update={"path": REMOVED})
    splits = tuple(
        Split(
            train=tuple(numbers[case] for case in split.train),
            validation=tuple(numbers[case] for case in split.validation),
        )
        for split in plan.recipe.splits
    )
    race = plan.recipe.race
    if race is not None:
        kept = tuple(tuple(numbers[case] for case in cases) for cases in race.held_out)
        race = race.model_copy(update={"held_out": kept})
    return plan.model_copy(
        update={
            "data": plan.data.model_copy(update={"dataset": name, "cases": tuple(numbers.values())}),
            "model": plan.model.model_copy(update={"weights": weights}),
            "recipe": plan.recipe.model_copy(update={"splits": splits, "race": race}),
            "reasons": (),
            "expected": None,
        }
    )
