"""A race: which strategies, on which cases, at what price, and which of them wins.

The race may not see a case whose score is reported later. So every fold holds its own, on its own training cases.
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
NO_RACE = "a race compares pretrained starts with one from scratch, and there are no pretrained weights"
RACE_HINT = "take --strategy scratch, or pretrained --weights"
LARGEST_PART = 4
"""Of a fold's training cases a quarter is held out; of few cases more, so that there are two of them to tell chance."""
MOST_HELD_OUT = 20
FEWEST_STEPS = 30
"""Of each candidate; with fewer no race is held. Half of what the default budget and share give on a CPU (20 minutes,
0.5 s a step, four candidates); a guess, not measured."""


def challengers(model: ModelPlan) -> tuple[Strategy, ...]:
    """Choose what races against the plan's own strategy: each end of what transfer can be, and the middle.

    ``scratch`` takes nothing, ``frozen`` everything as it is, ``partial`` the lowest stages as they are, with those
    above learning from random weights; it takes part where it leaves some of the pretrained weights out. The plan's own
    is the fourth, and tunes all stages. More would leave each of them fewer steps.

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
    """Choose on which of its training cases each fold, and last ``full``, scores the candidates.

    Args:
        splits: The folds.
        cases: All that ``full`` trains on.
        groups: Case -> group; a group is never on both sides.
        labels: Case -> labels that it holds, spread over both sides.
        seed: Of the dealing.

    Raises:
        UserError: If a fold trains on a single case or group, so that nothing can be held out.
    """
    chosen = []
    for index, trained in enumerate([*(split.train for split in splits), tuple(cases)]):
        parts = max(2, min(LARGEST_PART, len(trained) // 2), math.ceil(len(trained) / MOST_HELD_OUT))
        inner = make_splits(trained, folds=parts, seed=seed, groups=groups, labels=labels)[0]
        if inner.train == inner.validation:
            fold = f"fold {index}" if index < len(splits) else "full"
            what = f"{fold} trains on a single case (or group), so that a race has none to hold out"
            raise UserError(what, where="--strategy race", hint="take another strategy, or more cases")
        chosen.append(inner.validation)
    return tuple(chosen)


def spend(share: float, *, epochs: int | None, time_budget: float | None) -> float:
    """The part of a fold's budget that candidates train for, in its own unit.

    Args:
        share: Of the budget, for the race.
        epochs: The budget in epochs, of which the training that follows keeps whole ones.
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
    """Seconds for the training that follows a race, so that both together keep to the budget.

    Steps cost more or less than was timed beforehand, and candidates have to be scored. Half of the budget is left
    whatever the race took.

    Args:
        time_budget: Of the fold, in seconds.
        taken: By the race.
    """
    return max(time_budget - taken, time_budget / 2)


def choose(names: Sequence[str], dice: Sequence[Sequence[float]]) -> tuple[int, str]:
    """Choose the winner: the highest mean Dice, if it beats the plan's own strategy by more than chance.

    Args:
        names: Of the candidates; the first is the plan's own.
        dice: Of each candidate, the mean Dice of each held-out case; nan where it is not defined.

    Returns:
        The winner's position, and why.
    """
    defined = [index for index, values in enumerate(zip(*dice, strict=True)) if not any(map(math.isnan, values))]
    if not defined:
        return 0, f"{names[0]}: no held-out case has a label, so that nothing tells the candidates apart"
    means = [sum(values[index] for index in defined) / len(defined) for values in dice]
    figures = ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))
    over = f"mean Dice over {len(defined)} held-out training case(s): {figures}"
    best = max(range(len(names)), key=lambda index: means[index])
    if best == 0:
        return 0, f"{names[0]}: {over}"
    lower, upper = mean_interval([dice[best][index] - dice[0][index] for index in defined])
    interval = f"95 % interval of the difference {lower:+.3f} to {upper:+.3f}"
    if lower > 0:
        return best, f"{names[best]}: {over}; better than {names[0]} by more than chance ({interval})"
    why = interval if len(defined) > 1 else "a single case"
    return 0, f"{names[0]}: {over}; {names[best]} is not better by more than chance ({why})"
