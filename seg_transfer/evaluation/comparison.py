"""Two runs on the same held-out cases: what their Dice differs by, and whether by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from seg_transfer.evaluation.ranking import pooled
from seg_transfer.evaluation.scores import Figure, Scores
from seg_transfer.util.files import write_text
from seg_transfer.util.statistics import mean_interval


class Side(BaseModel):
    """One of the two runs, over the cases that both have scored."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    strategy: str
    mean_dice: Figure = Field(description="mean over the labels")
    dice: dict[str, Figure] = Field(description="label -> mean over the cases")


class Comparison(BaseModel):
    """A run beside its control, as ``control.json`` holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    cases: tuple[str, ...] = Field(description="held-out cases that both runs have scored")
    run: Side
    control: Side
    difference: Figure = Field(description="run minus control: mean over the cases of the difference of mean Dice")
    lower: Figure = Field(description="lower end of its 95 % interval over the cases (Student's t)")
    upper: Figure = Field(description="upper end; both undefined for fewer than two cases")

    @property
    def delivers(self) -> bool:
        """Whether the run is better than its control by more than chance."""
        return self.lower > 0

    @property
    def harms(self) -> bool:
        """Whether it is worse by more than chance."""
        return self.upper < 0

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_text(path, self.model_dump_json(indent=2) + "\n")


def compare(run: Sequence[Scores], control: Sequence[Scores], *, strategies: tuple[str, str]) -> Comparison:
    """Compare two runs case by case.

    Args:
        run: Scores of each fold of one run, of the same labels.
        control: The same folds of the other.
        strategies: What each of the two trained with.
    """
    sides = pooled(run), pooled(control)
    cases = sorted(sides[0].cases.keys() & sides[1].cases.keys())
    first, second = (
        side.model_copy(update={"cases": {case: side.cases[case] for case in cases}, "failures": {}}) for side in sides
    )
    differences = [first.case_dice(case) - second.case_dice(case) for case in cases]
    defined = [value for value in differences if not math.isnan(value)]
    lower, upper = mean_interval(defined)
    return Comparison(
        cases=tuple(cases),
        run=_side(first, strategies[0]),
        control=_side(second, strategies[1]),
        difference=sum(defined) / len(defined) if defined else math.nan,
        lower=lower,
        upper=upper,
    )


def _side(scores: Scores, strategy: str) -> Side:
    dice = {name: summary.dice.mean for name, summary in scores.summary.items()}
    return Side(strategy=strategy, mean_dice=scores.mean_dice, dice=dice)
