"""Trains a fold, then predicts its held-out cases as whole cases and scores them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.evaluation.overlay import CaseFiles, save_overlay
from seg_transfer.evaluation.report import save_csv
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.evaluation.scores import Scores
from seg_transfer.evidence.fit_head import fit_head
from seg_transfer.evidence.run_race import run_race
from seg_transfer.inference.folder import label_file, predict_folder
from seg_transfer.inference.predictor import Predictor
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.loop import train_fold
from seg_transfer.training.manifest import Cases
from seg_transfer.training.run_folder import RunFolder, fold_name
from seg_transfer.util.environment import case_workers

logger = logging.getLogger(__name__)

CASES_WORTH_WORKERS = 10
"""Below, starting workers that load torch takes longer than scoring the cases here, where it is loaded already."""


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold.

    Attributes:
        run: Which fold, and its folder.
        scores: Of its held-out cases; None where there are none.
        strategy: Name of the strategy that it was trained with, or of the classifier that was fitted.
        pretrained: Whether any encoder stage started from pretrained weights.
        control: The same fold from scratch, where that was asked for.
    """

    run: RunFolder
    scores: Scores | None
    strategy: str
    pretrained: bool
    control: TrainedFold | None = None

    @property
    def fold(self) -> Fold:
        """Which fold."""
        return self.run.fold

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.path


def train_and_validate(
    plan: Plan, dataset: Dataset, store: Store, run: RunFolder, *, options: RunOptions
) -> TrainedFold:
    """Train one fold and validate it; what an earlier call has done already is not done again.

    Args:
        plan: What to train; a race that it asks for comes first.
        dataset: The cases' files, since whole cases are predicted and scored in their own geometry.
        store: The preprocessed cases.
        run: Which fold, and its folder.
        options: Of this run alone; its device is resolved.
    """
    logger.info(f"{fold_name(run.fold)}: {run.path}")
    plan, options = run_race(plan, store, run, options=options)
    learn = train_fold if plan.model.head == "unet" else fit_head
    learn(plan, store, run, options=options)
    held_out = Cases.of(plan, run.fold).validation
    scores = _validate(plan, dataset, run, held_out, options) if held_out else None
    return TrainedFold(run, scores, plan.strategy_name, plan.recipe.strategy.pretrained_stages > 0)


def _validate(plan: Plan, dataset: Dataset, run: RunFolder, held_out: Sequence[str], options: RunOptions) -> Scores:
    """Predict into ``validation/`` and write ``scores.json``, ``scores.csv`` and ``overlay.png`` beside.

    ``scores.json`` comes last and is newer than its model, so that one of a former model is not taken for this one's.
    """
    if run.validated:
        return Scores.load(run.scores)
    cases = dataset.select(held_out).cases
    failures = predict_folder(Predictor.load([run.model], options.device), cases, run.validation, overwrite=True)
    files = {}
    for case in cases:
        assert case.label is not None, "every case of a data set has a label"
        if case.id not in failures:
            files[case.id] = CaseFiles(case.images, case.label, label_file(case, run.validation))
    scores = evaluate_files(
        {case: (file.prediction, file.reference) for case, file in files.items()},
        labels=plan.data.scored,
        ignore=plan.data.ignore,
        workers=case_workers(options.workers) if len(files) >= CASES_WORTH_WORKERS else 0,
        failures=failures,
    )
    save_overlay(run.overlay, scores, files)
    save_csv(scores, run.score_table)
    scores.save(run.scores)
    return scores
