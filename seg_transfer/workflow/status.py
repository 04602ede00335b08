"""What is done in a work folder, and what comes next; needs no torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from seg_transfer.errors import UserError
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.training.run_folder import PlanFolder, RunFolder
from seg_transfer.workflow.work_folder import Work

RunState = Literal["not started", "interrupted", "trained", "validated"]


class RunStatus(BaseModel):
    """One fold of one plan."""

    plan: str
    current: bool
    fold: Fold
    state: RunState
    mean_dice: float | None
    folder: str


class Status(BaseModel):
    """What :func:`read_status` found."""

    work: str
    dataset: str | None
    plan: str | None
    edited: list[str]
    cases: int
    preprocessed: int
    runs: list[RunStatus]
    next: list[str]


def read_status(path: Path) -> Status:
    """Look at a work folder.

    Raises:
        UserError: If there is no such folder, or its plan was edited into something impossible.
    """
    work = Work(path)
    if not path.is_dir():
        raise UserError("there is no such work folder", where=path, hint="run `segtl plan DATASET` first")
    if not work.plan.is_file():
        return Status(
            work=str(path),
            dataset=None,
            plan=None,
            edited=[],
            cases=0,
            preprocessed=0,
            runs=[],
            next=["segtl plan DATASET"],
        )
    plan = Plan.load(work.plan)
    folder = work.plan_folder(plan)
    runs = [_status(folder, run, current=True) for run in folder.runs]
    earlier = [
        _status(other, run, current=False)
        for other in work.plan_folders()
        if other.name != folder.name
        for run in other.runs
        if run.started
    ]
    store = work.store_folder(plan)
    return Status(
        work=str(path),
        dataset=plan.data.dataset,
        plan=folder.name,
        edited=edited_parts(work.plan),
        cases=len(plan.data.cases),
        preprocessed=sum((store / case).is_dir() for case in plan.data.cases),
        runs=[*runs, *earlier],
        next=_next(work, runs),
    )


def _status(folder: PlanFolder, run: RunFolder, *, current: bool) -> RunStatus:
    state: RunState = "not started"
    if run.started:
        state = "interrupted" if not run.finished else "validated" if run.validated else "trained"
    mean_dice = None
    if state == "validated":
        from seg_transfer.evaluation.scores import Scores

        mean = Scores.load(run.scores).mean_dice
        mean_dice = None if math.isnan(mean) else mean
    return RunStatus(
        plan=folder.name,
        current=current,
        fold=run.fold,
        state=state,
        mean_dice=mean_dice,
        folder=str(run.path),
    )


def _next(work: Work, runs: list[RunStatus]) -> list[str]:
    option = work.option
    interrupted = [run.fold for run in runs if run.state == "interrupted"]
    done = [run.fold for run in runs if run.state in ("trained", "validated")]
    open_folds = [run.fold for run in runs if run.state == "not started" and run.fold != "full"]
    steps = [f"segtl train {fold}{option}" for fold in interrupted]
    if done:
        steps.append(f"segtl predict -i IMAGES -o PREDICTIONS{option}")
    if open_folds and not interrupted:
        steps.append(f"segtl train {'cv' if done else 0}{option}")
    return steps
