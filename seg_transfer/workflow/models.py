"""Finds the trained models for a command: the named folds, the choice of cross-validation, or the current plan's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.model_file import NOTHING, Postprocessing
from seg_transfer.training.checkpoint_header import model_digests
from seg_transfer.training.run_folder import PlanFolder, TrainedRuns
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.work_folder import WorkFolder, fold_from_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """Trained models that predict together.

    Attributes:
        runs: The models, by plan.
        postprocessing: Applied to their label maps.
        choice: The choice of cross-validation; None if the models were not chosen by it.
    """

    runs: tuple[TrainedRuns, ...]
    postprocessing: Postprocessing = NOTHING
    choice: Choice | None = None


def find_models(work: WorkFolder, folds: Sequence[int | str] | None) -> Models:
    """Find the models to predict with.

    Args:
        work: WorkFolder folder.
        folds: Folds of the current plan; None for the runs in ``choice.json``. Without it, and where more folds of a
            chosen run are trained by now, all trained folds.

    Raises:
        UserError: If no fold is trained, or a named fold or chosen run does not exist.
    """
    if folds is None and work.choice.is_file():
        chosen = _chosen(work)
        if chosen is not None:
            return chosen
    folder = work.plan_folder(work.load_plan())
    return Models((TrainedRuns(folder, tuple(_trained(work, folder, folds))),))


def _chosen(work: WorkFolder) -> Models | None:
    """The chosen runs; None, with a warning, if the choice was made on fewer of their folds than are trained."""
    choice = Choice.load(work.choice)
    folders = {folder.name: folder for folder in work.plan_folders()}
    runs = []
    for chosen in choice.runs:
        folder = folders.get(chosen.run)
        if folder is None or not all(folder.run(fold).model.is_file() for fold in chosen.folds):
            what = f"{chosen.run} does not exist any more, or not all of its folds"
            raise UserError(what, where=work.choice, hint=Choice.if_wrong)
        later = [fold for fold in _finished(folder) if fold not in chosen.folds and fold != "full"]
        if later:
            logger.warning(
                f"{work.choice} is not used: it was made without fold {', '.join(map(str, later))} of {chosen.run}, "
                f"trained since; run `segtl summary{work.option}` to choose again"
            )
            return None
        runs.append(TrainedRuns(folder, chosen.folds))
    logger.info(f"as chosen in {work.choice}: {' + '.join(run.name for run in runs)}")
    if choice.models and choice.models != model_digests([model for run in runs for model in run.models]):
        logger.warning(f"{work.choice} was made with other models of its runs: run `segtl summary{work.option}` again")
    return Models(tuple(runs), choice.postprocessing, choice)


def _trained(work: WorkFolder, folder: PlanFolder, folds: Sequence[int | str] | None) -> list[Fold]:
    """The named folds, by default all that are trained to the end."""
    trained = [run.fold for run in folder.runs if run.model.is_file()]
    finished = _finished(folder)
    if folds is None:
        if not finished:
            hint = f"run `segtl train 0{work.option}` to its end"
            if trained:
                hint += f", or name an unfinished one: --folds {trained[0]}"
            raise UserError("no fold of this plan is trained", where=folder.path, hint=hint)
        return [fold for fold in finished if fold != "full"] or finished
    named = list(dict.fromkeys(fold_from_text(str(fold).strip(), folder.plan, option="--folds") for fold in folds))
    if missing := [str(fold) for fold in named if fold not in trained]:
        hint = f"trained are: {', '.join(map(str, trained)) or 'none'}"
        raise UserError(f"not trained: {', '.join(missing)}", where=folder.path, hint=hint)
    for fold in named:
        if fold not in finished:
            logger.warning(f"{folder.run(fold).path} is not trained to the end")
    return named


def _finished(folder: PlanFolder) -> list[Fold]:
    """The folds that are trained to the end."""
    return [run.fold for run in folder.runs if run.model.is_file() and run.finished]
