"""The control of a pretrained start: the same fold from scratch, under the same budget."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.evaluation.comparison import Comparison, compare
from seg_transfer.planning.evidence_record import RACE_FILE
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.loop import RunOptions
from seg_transfer.workflow.validate import TrainedFold, train_and_validate
from seg_transfer.workflow.work_folder import MANIFEST_FILE

logger = logging.getLogger(__name__)

CONTROL_FILE = "control.json"
"""Beside the scores in ``validation/``, so that it goes with them when a fold is trained anew."""


def train_control(
    run: TrainedFold, control: Plan, dataset: Dataset, store: Store, folder: Path, *, options: RunOptions, workers: int
) -> TrainedFold:
    """Train and validate a fold's from-scratch control, and write how both compare into the fold's folder.

    The control's seed and budget are those that the fold was trained with, whatever this call says; of a fold with a
    race, race and training together.

    Args:
        run: The fold, trained and validated.
        control: Its plan from scratch.
        dataset: The cases' files.
        store: The preprocessed cases.
        folder: The control's run folder.
        options: Of this run.
        workers: Processes that score; 0 scores in this one.

    Returns:
        The fold, with its control.

    Raises:
        UserError: If the control was trained before with another seed or budget.
    """
    logger.info("its control from scratch:")
    made = train_and_validate(
        control, dataset, store, folder, fold=run.fold, options=_as_trained(run.folder, options), workers=workers
    )
    run = replace(run, control=made)
    comparison = compare_with_controls([run])
    assert comparison is not None
    comparison.save(run.folder / "validation" / CONTROL_FILE)
    return run


def compare_with_controls(runs: list[TrainedFold]) -> Comparison | None:
    """Compare folds with their controls over all their held-out cases; None where no fold has a control."""
    pairs = [(run.scores, run.control.scores) for run in runs if run.scores and run.control and run.control.scores]
    if not pairs:
        return None
    names = " / ".join(dict.fromkeys(run.strategy for run in runs))
    mine, theirs = zip(*pairs, strict=True)
    return compare(mine, theirs, strategies=(names, "scratch"))


def _as_trained(folder: Path, options: RunOptions) -> RunOptions:
    """The options with the seed and the whole budget that a finished fold has used."""
    race = folder / RACE_FILE
    recorded = json.loads((race if race.is_file() else folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    recorded = recorded.get("options", recorded)
    return replace(options, **{name: recorded[name] for name in ("seed", "epochs", "time_budget")})
