"""The from-scratch control of a fold: the same training from random weights, under the same budget."""

from __future__ import annotations

import logging
from dataclasses import replace

from seg_transfer.data.dataset import Dataset
from seg_transfer.evaluation.comparison import Comparison, compare
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.manifest import Manifest
from seg_transfer.training.run_folder import PlanFolder
from seg_transfer.workflow.validate import TrainedFold, train_and_validate

logger = logging.getLogger(__name__)


def train_control(
    fold: TrainedFold, control: PlanFolder, dataset: Dataset, store: Store, *, options: RunOptions
) -> TrainedFold:
    """Train and validate a fold's from-scratch control, and write the comparison into the fold's folder.

    Random seed and budget are those that the fold was trained with (race included), not those of ``options``.

    Args:
        fold: The fold, trained and validated.
        control: Folder of the control's plan.
        dataset: The cases' files.
        store: The preprocessed cases.
        options: Options of this call.

    Returns:
        The fold with its control.

    Raises:
        UserError: If the control was trained before with another random seed or budget.
    """
    logger.info("its control from scratch:")
    control.keep_plan()
    run = fold.run
    used = RaceEvidence.load(run.race) if run.race.is_file() else Manifest.load(run.manifest).options
    budget = {"seed": used.seed, "epochs": used.epochs, "time_budget": used.time_budget}
    options = options.model_copy(update=budget)
    trained = train_and_validate(control.plan, dataset, store, control.run(run.fold), options=options)
    fold = replace(fold, control=trained)
    comparison = compare_with_controls([fold])
    assert comparison is not None
    comparison.save(run.control)
    return fold


def compare_with_controls(folds: list[TrainedFold]) -> Comparison | None:
    """Compare folds with their controls over all their held-out cases; None if no fold has a control."""
    pairs = [
        (fold.scores, fold.control.scores) for fold in folds if fold.scores and fold.control and fold.control.scores
    ]
    if not pairs:
        return None
    names = " / ".join(dict.fromkeys(fold.strategy for fold in folds))
    planned, controls = zip(*pairs, strict=True)
    return compare(planned, controls, strategies=(names, "scratch"))
