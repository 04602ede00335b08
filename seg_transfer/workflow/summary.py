"""From the validated runs of a work folder to one choice."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import SummaryOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.util import environment
from seg_transfer.workflow.choice import Choice, ChosenRun
from seg_transfer.workflow.work_folder import Work

if TYPE_CHECKING:
    from seg_transfer.evaluation.ranking import RunSummary, ScoredRuns, Summary

logger = logging.getLogger(__name__)


@takes(SummaryOptions)
def summary(options: SummaryOptions) -> Summary:
    """Compare all validated runs of a work folder, choose the best, and write ``summary.json`` and ``choice.json``.

    The best run is the one with the highest cross-validated mean Dice. On its held-out cases it is tried whether
    keeping only the largest component helps (see :mod:`seg_transfer.evaluation.largest_component`). :func:`predict` and
    :func:`export` then use what was chosen. Choosing and scoring on the same cases makes the chosen score slightly too
    good; only cases that took no part in any of it can say by how much.

    Ensembles are the mean of two configurations: the best run of each, pair by pair. Their held-out cases are predicted
    again, since validation keeps label maps alone.

    Raises:
        UserError: If no fold is validated.
    """
    place = Work(options.work)
    made = place.load_plan()
    dataset = Dataset.load(place.dataset)
    runs, left_out = _candidates(place, made, dataset)
    if not runs:
        hint = f"train and validate a fold: `segtl train 0{place.option}`"
        raise UserError("no fold of this data set is validated", where=place.runs, hint=hint)
    case_workers = environment.case_workers(options.workers)
    environment.check_torch()
    from seg_transfer.evaluation.largest_component import find_postprocessing
    from seg_transfer.evaluation.ranking import Summary, lead_and_spread, rank

    validated = [_scored(run) for run in runs.values()]
    ranked = rank(validated)
    if options.ensembles:
        best = [runs[name] for name in _best_of_each_configuration(ranked, runs)]
        validated += _pairs(place, dataset, best, environment.resolve_device(options.device), case_workers)
        ranked = rank(validated)
    lead, spread = lead_and_spread(ranked)
    first = ranked[0]
    scores = {run.name: run for run in validated}[first.name].scores
    outcome = find_postprocessing(
        _label_maps(place, dataset, runs, first, {fold: list(scores[fold].cases) for fold in first.folds}),
        labels={label.name: label.value for label in made.data.labels[1:]},
        scored=made.data.scored,
        ignore=made.data.ignore,
        workers=case_workers,
    )
    found = Summary(
        dataset=made.data.dataset,
        runs=tuple(ranked),
        best=first.name,
        lead=lead,
        spread=spread,
        postprocessing=outcome.trials,
        left_out=left_out,
    )
    found.save(place.summary)
    Choice(
        runs=tuple(ChosenRun(run=name, folds=runs[name].folds) for name in first.runs),
        postprocessing=outcome.postprocessing,
        dice={name: None if math.isnan(mean) else mean for name, mean in outcome.dice.items()},
        cases=first.cases,
    ).save(place.choice)
    return found


def _candidates(place: Work, made: Plan, dataset: Dataset) -> tuple[dict[str, TrainedRuns], dict[str, str]]:
    """Validated runs of the data set by identity, those of the current plan first; and others -> why not."""
    here = {case.id for case in dataset.cases}
    runs, left_out = {}, {}
    current = place.plan_folder(made).name
    for folder in sorted(place.plan_folders(), key=lambda folder: folder.name != current):
        if _scheme(folder.plan) != _scheme(made) or not here >= set(folder.plan.data.cases):
            left_out[folder.name] = "of another data set than the current plan: other labels or cases"
        elif folds := folder.validated_folds:
            runs[folder.name] = TrainedRuns(folder, folds)
        else:
            left_out[folder.name] = "no fold is trained to the end and validated"
    return runs, left_out


def _scheme(plan: Plan) -> tuple[object, ...]:
    return plan.data.labels, plan.data.regions, plan.data.ignore


def _scored(run: TrainedRuns) -> ScoredRuns:
    from seg_transfer.evaluation.ranking import ScoredRuns
    from seg_transfer.evaluation.scores import Scores

    scores = {fold: Scores.load(run.folder.run(fold).scores) for fold in run.folds if fold != "full"}
    return ScoredRuns((run,), scores)


def _best_of_each_configuration(ranked: Sequence[RunSummary], runs: Mapping[str, TrainedRuns]) -> list[str]:
    """Names of runs to combine: of each configuration the best, if it prepares images as the best of all does."""
    chosen: dict[str, str] = {}
    data = runs[ranked[0].name].plan.data
    for run in ranked:
        if run.ranked and runs[run.name].plan.data == data:
            chosen.setdefault(run.configuration, run.name)
    if len(chosen) < 2:
        logger.info("there are no two configurations to combine that prepare images alike and held out the same cases")
    return list(chosen.values())


def _pairs(place: Work, dataset: Dataset, best: Sequence[TrainedRuns], device: str, workers: int) -> list[ScoredRuns]:
    from seg_transfer.evaluation.ranking import ScoredRuns
    from seg_transfer.workflow.pairs import score_pairs

    found = score_pairs(place, dataset, best, device=device, workers=workers)
    return [ScoredRuns(tuple(best[index] for index in pair), scores) for pair, scores in found.items()]


def _label_maps(
    place: Work,
    dataset: Dataset,
    runs: Mapping[str, TrainedRuns],
    run: RunSummary,
    cases: Mapping[int, Sequence[str]],
) -> dict[str, tuple[Path, Path]]:
    """Case -> predicted and reference label map of the held-out cases."""
    from seg_transfer.inference.folder import label_file

    files = {}
    for fold, held_out in cases.items():
        folder = place.pair_folder(run.runs, fold)
        if len(run.runs) == 1:
            folder = runs[run.name].folder.run(fold).validation
        for case in dataset.select(held_out).cases:
            assert case.label is not None, "every case of a data set has a label"
            files[case.id] = label_file(case, folder), case.label
    return files
