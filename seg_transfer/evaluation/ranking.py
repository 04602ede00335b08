"""Rank runs by their cross-validated scores.

A run is one plan with its folds. Its score is the mean over labels of the mean Dice over all held-out cases of all
folds. Only runs on the same cases are ranked: those that held out every case that any run held out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from seg_transfer.evaluation.largest_component import Trial
from seg_transfer.evaluation.scores import NAN_AS_NULL, Figure, FigurePart, Scores
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.util.records import JsonRecord


class RunSummary(FigurePart):
    """One run, or an ensemble of several."""

    name: str
    runs: tuple[str, ...] = Field(description="folders in runs/; two for an ensemble")
    configuration: str
    encoder: str
    strategy: str
    folds: tuple[int, ...] = Field(description="folds whose held-out cases are scored")
    cases: int = Field(description="number of held-out cases of these folds")
    dice: dict[str, Figure] = Field(description="label -> mean over the held-out cases of all folds")
    mean_dice: Figure = Field(description="mean over the labels")
    fold_dice: tuple[Figure, ...] = Field(description="mean Dice of each fold by itself")
    fold_std: Figure = Field(description="sample standard deviation of fold_dice; undefined for one fold")
    ranked: bool = Field(description="false if other runs held out cases that this one did not")


class Summary(JsonRecord):
    """``summary.json``: the result of `segtl summary`."""

    model_config = NAN_AS_NULL

    noun: ClassVar[str] = "summary"
    if_missing: ClassVar[str] = "run `segtl summary`"
    if_wrong: ClassVar[str] = "run `segtl summary` again"

    version: Literal[1] = 1
    dataset: str
    runs: tuple[RunSummary, ...] = Field(description="ranked runs first, sorted by mean Dice")
    best: str = Field(description="name of the best run")
    lead: Figure = Field(description="its mean Dice minus that of the second; undefined if there is no other")
    spread: Figure = Field(description="larger fold_std of the best two; undefined if neither has two folds")
    postprocessing: tuple[Trial, ...] = Field(description="steps that were tried on the best run")
    left_out: dict[str, str] = Field(description="other runs in the work folder -> why they are left out")

    @property
    def beyond_spread(self) -> bool:
        """Whether the lead of the best run exceeds the spread between folds."""
        return self.lead > self.spread


@dataclass(frozen=True)
class ScoredRuns:
    """Trained runs of one plan, or of several that predict together, and their held-out scores.

    Attributes:
        members: One for each plan.
        scores: Fold of the first member -> scores of its held-out cases.
    """

    members: tuple[TrainedRuns, ...]
    scores: Mapping[int, Scores]

    @property
    def name(self) -> str:
        """The members' names, joined."""
        return "+".join(member.name for member in self.members)


def pooled(scores: Sequence[Scores]) -> Scores:
    """Scores of several folds together; if two folds held out a case, those of the later fold."""
    cases = {case: of_label for of_fold in scores for case, of_label in of_fold.cases.items()}
    failures = {case: cause for of_fold in scores for case, cause in of_fold.failures.items() if case not in cases}
    return scores[0].model_copy(update={"cases": cases, "failures": failures})


def rank(validated: Sequence[ScoredRuns]) -> list[RunSummary]:
    """Summarise at least one run of the same labels: ranked runs first, sorted by mean Dice; ties keep their order."""
    cases = {run.name: set(pooled(list(run.scores.values())).cases) for run in validated}
    most = max(cases.values(), key=len)
    runs = [_summarise(run, ranked=cases[run.name] >= most) for run in validated]
    return sorted(runs, key=lambda run: (not run.ranked, math.isnan(run.mean_dice), -run.mean_dice))


def lead_and_spread(runs: Sequence[RunSummary]) -> tuple[float, float]:
    """Lead of the best run, and the spread between the folds of the best two.

    Args:
        runs: The result of :func:`rank`.
    """
    best, *others = [run for run in runs if run.ranked]
    spreads = [run.fold_std for run in (best, *others[:1]) if not math.isnan(run.fold_std)]
    return best.mean_dice - others[0].mean_dice if others else math.nan, max(spreads, default=math.nan)


def _summarise(run: ScoredRuns, *, ranked: bool) -> RunSummary:
    plans = [member.plan for member in run.members]
    scores = pooled(list(run.scores.values()))
    fold_dice = [of_fold.mean_dice for of_fold in run.scores.values()]
    defined = [value for value in fold_dice if not math.isnan(value)]
    return RunSummary(
        name=run.name,
        runs=tuple(member.name for member in run.members),
        configuration=" + ".join(plan.model.configuration for plan in plans),
        encoder=" + ".join(dict.fromkeys(plan.model.encoder for plan in plans)),
        strategy=" + ".join(dict.fromkeys(plan.strategy_name for plan in plans)),
        folds=tuple(run.scores),
        cases=len(scores.cases),
        dice=scores.label_dice,
        mean_dice=scores.mean_dice,
        fold_dice=tuple(fold_dice),
        fold_std=float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan,
        ranked=ranked,
    )
