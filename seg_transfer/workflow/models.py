"""Which trained models a command means: those named, those that cross-validation chose, or the current plan's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.model_file import NOTHING, Postprocessing
from seg_transfer.training.run_folder import PlanFolder, TrainedRuns
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.work_folder import Work, fold_from_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Models:
    """Trained models that predict together; ``choice`` is where they come from, if cross-validation chose them."""

    runs: tuple[TrainedRuns, ...]
    postprocessing: Postprocessing = NOTHING
    choice: Choice | None = None


def find_models(place: Work, folds: Sequence[int | str] | None) -> Models:
    """Find what to predict with, and say so where it is not of the current plan.

    Args:
        place: Work folder.
        folds: Folds of the current plan; None for those in ``choice.json``, or without it all that are trained.

    Raises:
        UserError: If nothing is trained, or a fold or chosen run is not there.
    """
    if folds is None and place.choice.is_file():
        return _chosen(place)
    folder = place.plan_folder(place.load_plan())
    return Models((TrainedRuns(folder, tuple(_trained(place, folder, folds))),))


def _chosen(place: Work) -> Models:
    choice = Choice.load(place.choice)
    folders = {folder.name: folder for folder in place.plan_folders()}
    runs = []
    for chosen in choice.runs:
        folder = folders.get(chosen.run)
        if folder is None or not all(folder.run(fold).model.is_file() for fold in chosen.folds):
            hint = "run `segtl summary` again, or delete this file to use the current plan"
            raise UserError(
                f"{chosen.run} is not there any more, or not all of its folds", where=place.choice, hint=hint
            )
        runs.append(TrainedRuns(folder, chosen.folds))
    logger.info(f"as chosen in {place.choice}: {choice.name}")
    decided = place.choice.stat().st_mtime_ns
    if any(model.stat().st_mtime_ns > decided for run in runs for model in run.models):
        logger.warning(f"{place.choice} is older than a model it names: run `segtl summary{place.option}` again")
    return Models(tuple(runs), choice.postprocessing, choice)


def _trained(place: Work, folder: PlanFolder, folds: Sequence[int | str] | None) -> list[Fold]:
    """The folds that the user names, else all that are trained to the end."""
    there = [run.fold for run in folder.runs if run.model.is_file()]
    finished = [fold for fold in there if folder.run(fold).finished]
    if folds is None:
        if not finished:
            hint = f"run `segtl train 0{place.option}` to its end"
            if there:
                hint += f", or name an unfinished one: --folds {there[0]}"
            raise UserError("no fold of this plan is trained", where=folder.path, hint=hint)
        return [fold for fold in finished if fold != "full"] or finished
    chosen = list(dict.fromkeys(fold_from_text(str(fold).strip(), folder.plan, option="--folds") for fold in folds))
    if missing := [str(fold) for fold in chosen if fold not in there]:
        hint = f"trained are: {', '.join(map(str, there)) or 'none'}"
        raise UserError(f"not trained: {', '.join(missing)}", where=folder.path, hint=hint)
    for fold in chosen:
        if fold not in finished:
            logger.warning(f"{folder.run(fold).path} is not trained to the end")
    return chosen
