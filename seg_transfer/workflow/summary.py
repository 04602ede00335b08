"""Compares the validated runs of a work folder, and chooses which of them predict."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.model_options import SummaryOptions
from seg_transfer.planning.model_file import NOTHING
from seg_transfer.planning.plan import Plan
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.training.run_folder import TrainedRuns
from seg_transfer.util import environment
from seg_transfer.util.statistics import none_if_undefined
from seg_transfer.workflow.choice import Choice, ChosenRun
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.evaluation.ranking import RunSummary, ScoredRuns, Summary

logger = logging.getLogger(__name__)


@takes(SummaryOptions)
def summary(options: SummaryOptions) -> Summary:
    """Compare all validated runs of a work folder, choose the best, and write ``summary.json`` and ``choice.json``.

    The best run has the highest cross-validated mean Dice. Its held-out cases decide whether keeping only the largest
    component helps (see :mod:`seg_transfer.evaluation.largest_component`). :func:`predict` and :func:`export` use the
    choice. The score of the choice is slightly optimistic, since choice and score are from the same cases.

    Ensembles average two configurations, the best run of each. Their held-out cases are predicted again, since
    validation stores label maps only.

    Raises:
        UserError: If no fold is validated.
    """
    work = WorkFolder(options.work)
    plan = work.load_plan()
    dataset = Dataset.load(work.dataset)
    runs, left_out = _candidates(work, plan, dataset)
    if not runs:
        hint = f"train and validate a fold: `segtl train 0{work.option}`"
        raise UserError("no fold of this data set is validated", where=work.runs, hint=hint)
    from seg_transfer.evaluation.largest_component import Outcome, find_postprocessing
    from seg_transfer.evaluation.ranking import Summary, lead_and_spread, rank

    validated = [_scored(run) for run in runs.values()]
    ranked = rank(validated)
    if options.ensembles:
        best = [runs[name] for name in _best_of_each_configuration(ranked, runs)]
        validated += _pairs(work, dataset, best, options)
        ranked = rank(validated)
    lead, spread = lead_and_spread(ranked)
    first = ranked[0]
    scores = {run.name: run for run in validated}[first.name].scores
    if plan.data.instances:  # several objects are expected
        outcome = Outcome(NOTHING, (), first.dice)
    else:
        outcome = find_postprocessing(
            _label_maps(work, dataset, runs, first, {fold: list(scores[fold].cases) for fold in first.folds}),
            labels=plan.data.written_names,
            scored=plan.data.scored,
            ignore=plan.data.ignore,
            workers=options.workers,
        )
    result = Summary(
        dataset=plan.data.dataset,
        runs=tuple(ranked),
        best=first.name,
        lead=lead,
        spread=spread,
        postprocessing=outcome.trials,
        left_out=left_out,
    )
    of_folds = len(plan.recipe.splits)
    if len(first.folds) < of_folds:
        which = f"{len(first.folds)} of {of_folds} folds"
        logger.warning(f"scores are of {which} only: `segtl train cv{work.option}` trains the others")
    result.save(work.summary)
    Choice(
        runs=tuple(ChosenRun(run=name, folds=runs[name].folds) for name in first.runs),
        postprocessing=outcome.postprocessing,
        dice={name: none_if_undefined(mean) for name, mean in outcome.dice.items()},
        cases=first.cases,
        models=model_digests([model for name in first.runs for model in runs[name].models]),
    ).save(work.choice)
    return result


def _candidates(work: WorkFolder, plan: Plan, dataset: Dataset) -> tuple[dict[str, TrainedRuns], dict[str, str]]:
    """Validated runs by name, those of the current plan first; and name -> reason of the runs that are left out."""
    cases = {case.id for case in dataset.cases}
    runs, left_out = {}, {}
    current = work.plan_folder(plan).name
    for folder in sorted(work.plan_folders(), key=lambda folder: folder.name != current):
        if _scheme(folder.plan) != _scheme(plan) or not cases >= set(folder.plan.data.cases):
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
    """Names of runs to combine: the best of each configuration with the same data part as the best of all."""
    chosen: dict[str, str] = {}
    data = runs[ranked[0].name].plan.data
    for run in ranked:
        if run.ranked and runs[run.name].plan.data == data:
            chosen.setdefault(run.configuration, run.name)
    if len(chosen) < 2:
        logger.info("no ensemble: it needs two configurations with the same preprocessing and the same held-out cases")
    return list(chosen.values())


def _pairs(
    work: WorkFolder, dataset: Dataset, best: Sequence[TrainedRuns], options: SummaryOptions
) -> list[ScoredRuns]:
    if len(best) < 2:
        return []
    device = environment.resolve_device(options.device)
    environment.check_torch()
    from seg_transfer.evaluation.ranking import ScoredRuns
    from seg_transfer.workflow.pairs import score_pairs

    pairs = score_pairs(work, dataset, best, device=device, workers=options.workers)
    return [ScoredRuns(tuple(best[index] for index in pair), scores) for pair, scores in pairs.items()]


def _label_maps(
    work: WorkFolder,
    dataset: Dataset,
    runs: Mapping[str, TrainedRuns],
    run: RunSummary,
    cases: Mapping[int, Sequence[str]],
) -> dict[str, tuple[Path, Path]]:
    """Held-out case -> predicted and reference label map."""
    from seg_transfer.inference.outputs import label_maps

    files: dict[str, tuple[Path, Path]] = {}
    for fold, held_out in cases.items():
        folder = work.pair_folder(run.runs, fold)
        if len(run.runs) == 1:
            folder = runs[run.name].folder.run(fold).validation
        files |= label_maps(dataset.select(held_out).cases, folder)
    return files
