"""A race of strategies: candidates, held-out cases, budget, and the choice of the winner.

A race must not read a case whose scores are reported later. So each fold has its own race, on its training cases.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from seg_transfer.data.splits import Split, make_splits
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.rules.strategy import frozen, partial, scratch
from seg_transfer.planning.strategy import Strategy
from seg_transfer.util.statistics import mean_interval

SHARE = 0.1
NO_WEIGHTS = "a race compares pretrained strategies with scratch, but there are no pretrained weights"
NO_WEIGHTS_HINT = "take --strategy scratch, or pretrained --weights"
HELD_OUT_PART = 4
"""A quarter of a fold's training cases is held out; more of few cases, since an interval needs two."""
MOST_HELD_OUT = 20
FEWEST_STEPS = 30
"""Of each candidate; with fewer no race is held. Half of what the default budget and share give on a CPU (20 minutes,
0.5 s a step, four candidates). Not measured."""


def challengers(model: ModelPlan) -> tuple[Strategy, ...]:
    """Choose the strategies that race against the plan's: no transfer, transfer without learning, and one between.

    The plan's strategy, which tunes all stages, is the fourth. ``partial`` takes part only where it omits some
    pretrained weights. More candidates would leave fewer steps for each.

    Args:
        model: The network, with pretrained weights.
    """
    lower = partial(model)
    return (scratch(model), frozen(model), *((lower,) if lower.pretrained_stages < model.stages else ()))


def held_out(
    splits: Sequence[Split],
    cases: Sequence[str],
    *,
    groups: Mapping[str, str] | None,
    labels: Mapping[str, Collection[str]],
    seed: int,
) -> tuple[tuple[str, ...], ...]:
    """Choose the training cases that are held out for scoring candidates, for each fold and last for ``full``.

    Args:
        splits: The folds.
        cases: All cases, which ``full`` trains on.
        groups: Case -> group; a group is never split.
        labels: Case -> labels that it holds, spread over both sides.
        seed: Random seed of the assignment.

    Raises:
        UserError: If a fold trains on a single case or group, so that nothing can be held out.
    """
    chosen = []
    for index, train in enumerate([*(split.train for split in splits), tuple(cases)]):
        parts = max(2, min(HELD_OUT_PART, len(train) // 2), math.ceil(len(train) / MOST_HELD_OUT))
        split = make_splits(train, folds=parts, seed=seed, groups=groups, labels=labels)[0]
        if split.train == split.validation:
            fold = f"fold {index}" if index < len(splits) else "full"
            what = f"{fold} trains on a single case (or group), so that a race cannot hold one out"
            raise UserError(what, where="--strategy race", hint="take another strategy, or more cases")
        chosen.append(split.validation)
    return tuple(chosen)


def spend(share: float, *, epochs: int | None, time_budget: float | None) -> float:
    """The part of a fold's budget that all candidates share, in epochs or seconds as the budget is.

    Args:
        share: Share of the budget for the race.
        epochs: The budget in epochs; the following training gets a whole number of them.
        time_budget: The budget in seconds, in place of ``epochs``.

    Raises:
        UserError: If a budget in epochs is too small to be divided.
    """
    if time_budget is not None:
        return share * time_budget
    assert epochs is not None, "a budget is in epochs or in seconds"
    rest = min(epochs - 1, round((1 - share) * epochs))
    if rest < 1:
        what = f"{epochs} epoch(s) leave nothing to train after the race"
        raise UserError(what, where="--epochs", hint="give more epochs, or another strategy than race")
    return float(epochs - rest)


def time_left(time_budget: float, taken: float) -> float:
    """Seconds for the training that follows a race: the rest of the budget, and at least half of it.

    Args:
        time_budget: Budget of the fold, in seconds.
        taken: Seconds that the race took.
    """
    return max(time_budget - taken, time_budget / 2)


def choose(names: Sequence[str], dice: Sequence[Sequence[float]]) -> tuple[int, str]:
    """Choose the winner: the highest mean Dice, if it is significantly better than the plan's strategy.

    Args:
        names: Names of the candidates; the first is the plan's strategy.
        dice: Per candidate the mean Dice of each held-out case; nan where it is not defined.

    Returns:
        The winner's index, and the reason.
    """
    defined = [index for index, values in enumerate(zip(*dice, strict=True)) if not any(map(math.isnan, values))]
    if not defined:
        return 0, f"{names[0]}: no held-out case has a label, so that candidates cannot be compared"
    means = [sum(values[index] for index in defined) / len(defined) for values in dice]
    figures = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))
    scores = f"mean Dice over {len(defined)} held-out training case(s): {figures}"
    best = max(range(len(names)), key=lambda index: means[index])
    if best == 0:
        return 0, f"{names[0]}: {scores}"
    lower, upper = mean_interval([dice[best][index] - dice[0][index] for index in defined])
    interval = f"95 % interval of the difference {lower:+.3f} to {upper:+.3f}"
    if lower > 0:
        return best, f"{names[best]}: {scores}; significantly better than {names[0]} ({interval})"
    why = interval if len(defined) > 1 else "a single case"
    return 0, f"{names[0]}: {scores}; {names[best]} is not significantly better ({why})"
