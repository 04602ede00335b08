"""Two runs on the same held-out cases: the difference of their Dice, and whether it is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from seg_transfer.evaluation.ranking import pooled
from seg_transfer.evaluation.scores import NAN_AS_NULL, Figure, FigurePart, Scores
from seg_transfer.util.records import JsonRecord
from seg_transfer.util.statistics import mean_interval, mean_of_defined


class Side(FigurePart):
    """One of the two runs, over the cases that are scored in both."""

    strategy: str
    mean_dice: Figure = Field(description="mean over the labels")
    dice: dict[str, Figure] = Field(description="label -> mean over the cases")


class Comparison(JsonRecord):
    """``control.json``: a run compared with its from-scratch control."""

    model_config = NAN_AS_NULL

    noun: ClassVar[str] = "comparison"
    if_missing: ClassVar[str] = "train with `--control`"
    if_wrong: ClassVar[str] = "delete it, and train with `--control` again"

    version: Literal[1] = 1
    cases: tuple[str, ...] = Field(description="held-out cases that are scored in both runs")
    run: Side
    control: Side
    difference: Figure = Field(description="run minus control: mean over the cases of the difference of mean Dice")
    lower: Figure = Field(description="lower end of its 95 % interval over the cases (Student's t)")
    upper: Figure = Field(description="upper end; both undefined for fewer than two cases")

    @property
    def improves(self) -> bool:
        """Whether the run is significantly better than its control."""
        return self.lower > 0

    @property
    def worsens(self) -> bool:
        """Whether the run is significantly worse than its control."""
        return self.upper < 0

    @property
    def effect(self) -> str:
        """What the run does compared with its control, for messages."""
        if self.improves or self.worsens:
            return "improved Dice" if self.improves else "worsened Dice"
        return "made no significant difference"

    @property
    def difference_text(self) -> str:
        """The difference and the cases that it is over, for messages."""
        return f"{self.difference:+.3f} mean Dice over {len(self.cases)} held-out case(s)"

    @property
    def interval_text(self) -> str:
        """The interval of the difference, for messages."""
        if math.isnan(self.lower):
            return "no interval: one case is too few"
        return f"95 % interval {self.lower:+.3f} to {self.upper:+.3f}"


def compare(run: Sequence[Scores], control: Sequence[Scores], *, strategies: tuple[str, str]) -> Comparison:
    """Compare two runs case by case.

    Args:
        run: Scores of each fold of one run, all of the same labels.
        control: Scores of the same folds of the other run.
        strategies: Transfer strategy of the run and of the control.
    """
    both = pooled(run), pooled(control)
    cases = sorted(both[0].cases.keys() & both[1].cases.keys())
    common = [scores.model_copy(update={"cases": {case: scores.cases[case] for case in cases}}) for scores in both]
    differences = [common[0].case_dice(case) - common[1].case_dice(case) for case in cases]
    lower, upper = mean_interval([value for value in differences if not math.isnan(value)])
    sides = [
        Side(strategy=strategy, mean_dice=scores.mean_dice, dice=scores.label_dice)
        for strategy, scores in zip(strategies, common, strict=True)
    ]
    return Comparison(
        cases=tuple(cases),
        run=sides[0],
        control=sides[1],
        difference=mean_of_defined(differences),
        lower=lower,
        upper=upper,
    )
