"""What is done in a work folder, and what comes next; needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.workflow.work_folder import MODEL_FILE, SCORES_FILE, Fold, Work, folds_of

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


def read_status(folder: Path) -> Status:
    """Look at a work folder.

    Raises:
        UserError: If there is no such folder, or its plan was edited into something impossible.
    """
    work = Work(folder)
    if not folder.is_dir():
        raise UserError("there is no such work folder", where=folder, hint="run `segtl plan DATASET` first")
    if not work.plan.is_file():
        return Status(
            work=str(folder),
            dataset=None,
            plan=None,
            edited=[],
            cases=0,
            preprocessed=0,
            runs=[],
            next=["segtl plan DATASET"],
        )
    plan = Plan.load(work.plan)
    current = [_run(work, plan, fold, current=True) for fold in folds_of(plan)]
    earlier = [
        _run(work, other, fold, current=False)
        for other in work.planned_runs()
        if other.hash != plan.hash
        for fold in work.started(other)
    ]
    store = work.store_folder(plan)
    return Status(
        work=str(folder),
        dataset=plan.data.dataset,
        plan=work.plan_folder(plan).name,
        edited=edited_parts(work.plan),
        cases=len(plan.data.cases),
        preprocessed=sum((store / case).is_dir() for case in plan.data.cases),
        runs=[*current, *earlier],
        next=_next(work, current),
    )


def _run(work: Work, plan: Plan, fold: Fold, *, current: bool) -> RunStatus:
    folder = work.run_folder(plan, fold)
    scores = folder / "validation" / SCORES_FILE
    model = folder / MODEL_FILE
    state: RunState = "not started"
    if folder.is_dir():
        state = "trained" if work.finished(plan, fold) else "interrupted"
    if state == "trained" and scores.is_file() and scores.stat().st_mtime_ns >= model.stat().st_mtime_ns:
        state = "validated"
    return RunStatus(
        plan=work.plan_folder(plan).name,
        current=current,
        fold=fold,
        state=state,
        mean_dice=json.loads(scores.read_text(encoding="utf-8"))["mean_dice"] if state == "validated" else None,
        folder=str(folder),
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
