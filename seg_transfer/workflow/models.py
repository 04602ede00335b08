"""Which trained models a command means: those named, those that cross-validation chose, or the plan in force's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.errors import UserError
from seg_transfer.planning.model_file import NOTHING, Postprocessing
from seg_transfer.planning.plan import Plan
from seg_transfer.workflow.choice import Choice
from seg_transfer.workflow.work_folder import Fold, Work, fold_from_text, folds_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Trained folds of one plan."""

    plan: Plan
    folds: tuple[Fold, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Models:
    """Trained models that predict together; ``choice`` is where they come from, if cross-validation chose them."""

    runs: tuple[Run, ...]
    postprocessing: Postprocessing = NOTHING
    choice: Choice | None = None


def find_models(place: Work, folds: Sequence[int | str] | None) -> Models:
    """Find what to predict with, and say so where it is not the plan in force.

    Args:
        place: Work folder.
        folds: Folds of the plan in force; None for those in ``choice.json``, or without it all that are trained.

    Raises:
        UserError: If nothing is trained, or a fold or chosen run is not there.
    """
    if folds is None and place.choice.is_file():
        return _chosen(place)
    made = place.load_plan()
    named = tuple(_trained(place, made, folds))
    return Models((_run(place, made, named),))


def _chosen(place: Work) -> Models:
    choice = Choice.load(place.choice)
    planned = {place.plan_folder(plan).name: plan for plan in place.planned_runs()}
    runs = []
    for chosen in choice.runs:
        plan = planned.get(chosen.run)
        folds = [] if plan is None else [fold for fold in chosen.folds if place.model(plan, fold).is_file()]
        if plan is None or len(folds) < len(chosen.folds):
            hint = "run `segtl summary` again, or delete this file to use the plan in force"
            raise UserError(
                f"{chosen.run} is not there any more, or not all of its folds", where=place.choice, hint=hint
            )
        runs.append(_run(place, plan, tuple(folds)))
    logger.info(f"as chosen in {place.choice}: {choice.name}")
    decided = place.choice.stat().st_mtime_ns
    if any(file.stat().st_mtime_ns > decided for run in runs for file in run.files):
        logger.warning(f"{place.choice} is older than a model it names: run `segtl summary{place.option}` again")
    return Models(tuple(runs), choice.postprocessing, choice)


def _trained(place: Work, made: Plan, folds: Sequence[int | str] | None) -> list[Fold]:
    """The folds that the user names, else all that are trained to the end."""
    there = [fold for fold in folds_of(made) if place.model(made, fold).is_file()]
    finished = [fold for fold in there if place.finished(made, fold)]
    where = place.plan_folder(made)
    if folds is None:
        if not finished:
            hint = f"run `segtl train 0{place.option}` to its end"
            if there:
                hint += f", or name an unfinished one: --folds {there[0]}"
            raise UserError("no fold of this plan is trained", where=where, hint=hint)
        return [fold for fold in finished if fold != "full"] or finished
    chosen = list(dict.fromkeys(fold_from_text(str(fold).strip(), made, option="--folds") for fold in folds))
    if missing := [str(fold) for fold in chosen if fold not in there]:
        hint = f"trained are: {', '.join(map(str, there)) or 'none'}"
        raise UserError(f"not trained: {', '.join(missing)}", where=where, hint=hint)
    for fold in chosen:
        if fold not in finished:
            logger.warning(f"{place.run_folder(made, fold)} is not trained to the end")
    return chosen


def _run(place: Work, plan: Plan, folds: tuple[Fold, ...]) -> Run:
    return Run(plan, folds, tuple(place.model(plan, fold) for fold in folds))
