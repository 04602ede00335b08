"""The control of a pretrained start: the same fold from scratch, under the same budget."""

from __future__ import annotations

import logging
from dataclasses import replace

from seg_transfer.data.dataset import Dataset
from seg_transfer.evaluation.comparison import Comparison, compare
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.evidence_record import RaceEvidence
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.manifest import Manifest
from seg_transfer.training.run_folder import PlanFolder, RunFolder
from seg_transfer.workflow.validate import TrainedFold, train_and_validate

logger = logging.getLogger(__name__)


def train_control(
    run: TrainedFold, control: PlanFolder, dataset: Dataset, store: Store, *, options: RunOptions
) -> TrainedFold:
    """Train and validate a fold's from-scratch control, and write how both compare into the fold's folder.

    The control's seed and budget are those that the fold was trained with, whatever this call says; of a fold with a
    race, race and training together.

    Args:
        run: The fold, trained and validated.
        control: The folder of its plan from scratch.
        dataset: The cases' files.
        store: The preprocessed cases.
        options: Of this run.

    Returns:
        The fold, with its control.

    Raises:
        UserError: If the control was trained before with another seed or budget.
    """
    logger.info("its control from scratch:")
    control.keep_plan()
    options = _as_trained(run.run, options)
    made = train_and_validate(control.plan, dataset, store, control.run(run.fold), options=options)
    run = replace(run, control=made)
    comparison = compare_with_controls([run])
    assert comparison is not None
    comparison.save(run.run.control)
    return run


def compare_with_controls(runs: list[TrainedFold]) -> Comparison | None:
    """Compare folds with their controls over all their held-out cases; None where no fold has a control."""
    pairs = [(run.scores, run.control.scores) for run in runs if run.scores and run.control and run.control.scores]
    if not pairs:
        return None
    names = " / ".join(dict.fromkeys(run.strategy for run in runs))
    mine, theirs = zip(*pairs, strict=True)
    return compare(mine, theirs, strategies=(names, "scratch"))


def _as_trained(run: RunFolder, options: RunOptions) -> RunOptions:
    """The options with the seed and the whole budget that a finished fold has used."""
    used = RaceEvidence.load(run.race) if run.race.is_file() else Manifest.load(run.manifest).options
    used_up = {"seed": used.seed, "epochs": used.epochs, "time_budget": used.time_budget}
    return options.model_copy(update=used_up)
