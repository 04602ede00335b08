"""Trains a fold, then predicts its held-out cases and scores them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.formats import is_there
from seg_transfer.errors import UserError
from seg_transfer.evaluation.overlay import CaseFiles, save_overlay
from seg_transfer.evaluation.report import save_csv
from seg_transfer.evaluation.score_files import evaluate_files
from seg_transfer.evaluation.scores import Scores
from seg_transfer.evidence.run_race import run_race
from seg_transfer.inference.folder import predict_folder
from seg_transfer.inference.outputs import Outputs, label_maps
from seg_transfer.inference.predictor import Predictor
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.training.loop import add_scores_to_plot, train_fold
from seg_transfer.training.manifest import Cases
from seg_transfer.training.ranks import Ranks, current
from seg_transfer.training.run_folder import RunFolder, fold_name
from seg_transfer.util.locks import check_held

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedFold:
    """A trained fold.

    Attributes:
        run: The run's fold and folder.
        scores: Scores of the held-out cases; None if there are none.
        strategy: Name of the transfer strategy, or of the classifier that was fitted.
        pretrained: Whether any encoder stage started from pretrained weights.
        control: The from-scratch control, if there is one.
    """

    run: RunFolder
    scores: Scores | None
    strategy: str
    pretrained: bool
    control: TrainedFold | None = None

    @property
    def fold(self) -> Fold:
        """The fold."""
        return self.run.fold

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.path


def check_held_out(plan: Plan, dataset: Dataset, run: RunFolder) -> None:
    """Check before training that the files of the held-out cases are there: validation reads them, not the store.

    Raises:
        UserError: If one is gone, and the run is not validated.
    """
    held_out = Cases.of(plan, run.fold).validation
    with suppress(UserError):  # of a damaged model, which is written again and validated
        if not held_out or run.validated:
            return
    gone = [path for case in dataset.select(held_out).cases for path in case.files if not is_there(path)]
    if gone:
        raise UserError(
            f"there is no such file: {len(gone)} file(s) of cases that {fold_name(run.fold)} is validated on are gone",
            where=gone[0],
            hint="put the data set back; or plan with its new folder: what is preprocessed and trained is used again",
        )


def train_and_validate(
    plan: Plan, dataset: Dataset, store: Store, run: RunFolder, *, options: RunOptions
) -> TrainedFold:
    """Train and validate one fold; steps that an earlier call finished are not repeated.

    Args:
        plan: The plan; its race, if it has one, comes first.
        dataset: The cases' files: whole cases are predicted and scored in their own geometry.
        store: The preprocessed cases.
        run: The run's fold and folder.
        options: Options of this run; the device is resolved.

    Raises:
        UserError: If another process trains this fold.
    """
    logger.info(f"{fold_name(run.fold)}: {run.path}")
    with run.held():
        plan, options = run_race(plan, store, run, options=options)
        if plan.model.head == "unet":
            result = train_fold(plan, store, run, options=options)
        else:
            from seg_transfer.evidence.fit_head import fit_head  # imports scikit-learn

            result = fit_head(plan, store, run, options=options)
        held_out = Cases.of(plan, run.fold).validation
        scores = _validate(plan, dataset, run, held_out, options) if held_out else None
    if result.shortfall is not None:
        hint = "the machine was busy, or slower than estimated; train with a larger --time-budget and --restart"
        logger.warning(f"{run.path}: {result.shortfall}: {hint}")
    return TrainedFold(run, scores, plan.strategy_name, plan.recipe.strategy.pretrained_stages > 0)


@dataclass(frozen=True)
class _Predicting:
    """Predicts a run's held-out cases, of which each rank has its own.

    Attributes:
        run: The run, with an absolute path.
        cases: All of its held-out cases.
        device: Of a process that is alone.
    """

    run: RunFolder
    cases: tuple[Case, ...]
    device: str

    def __call__(self, ranks: Ranks) -> dict[str, str]:
        """Predict the cases of this rank; returns the causes of those that failed in any."""
        predictor = Predictor.load([self.run.model], ranks.device or self.device)
        failures = predict_folder(predictor, self.cases[ranks.rows()], Outputs(self.run.validation))
        parts = ranks.gather((failures, ranks.asked_to_stop))
        if any(stop for _, stop in parts):
            ranks.done()
            raise KeyboardInterrupt
        failed = {case: cause for part, _ in parts for case, cause in part.items()}
        return {case.id: failed[case.id] for case in self.cases if case.id in failed}


def _validate(plan: Plan, dataset: Dataset, run: RunFolder, held_out: Sequence[str], options: RunOptions) -> Scores:
    """Write label maps, ``scores.csv``, ``overlay.png`` and, last, ``scores.json`` into ``validation/``.

    Scores hold the model's digest, so that those of an earlier model do not count.
    """
    if run.validated:
        return Scores.load(run.scores)
    cases = dataset.select(held_out).cases
    models = model_digests([run.model])
    ranks, work = current(), _Predicting(RunFolder(run.path.absolute(), run.fold), cases, options.device)
    ranks.call(work)
    failures = work(ranks)
    ranks.done()
    predicted = [case for case in cases if case.id not in failures]
    maps = label_maps(predicted, run.validation)
    scores = evaluate_files(
        maps,
        labels=plan.data.scored,
        names=plan.data.names,
        ignore=plan.data.ignore,
        instances=plan.data.instances,
        workers=options.workers,
        failures=failures,
    )
    overlays = {case.id: CaseFiles(case.images, maps[case.id][1], maps[case.id][0]) for case in predicted}
    save_overlay(run.overlay, scores, overlays, names=plan.data.names, instances=plan.data.instances)
    save_csv(scores, run.score_table)
    add_scores_to_plot(plan, run, scores.label_dice)
    check_held(run.lock)
    scores = scores.model_copy(update={"models": models})
    scores.save(run.scores)
    return scores
