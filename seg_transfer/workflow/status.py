"""The state of a work folder, and the next commands; needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.other_options import StatusOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan, edited_parts
from seg_transfer.training.manifest import Manifest
from seg_transfer.training.run_folder import PlanFolder, RunFolder
from seg_transfer.util.local_files import no_folder
from seg_transfer.util.statistics import none_if_undefined
from seg_transfer.workflow.work_folder import WorkFolder

RunState = Literal["not started", "interrupted", "trained", "validated", "damaged"]


class RunStatus(BaseModel):
    """The state of one fold of one plan.

    ``problem`` says what is wrong with the files of a damaged run, ``shortfall`` that a time budget cut it short.
    """

    plan: str
    current: bool
    fold: Fold
    state: RunState
    mean_dice: float | None
    folder: str
    problem: str | None = None
    shortfall: str | None = None


class Status(BaseModel):
    """The state of a work folder."""

    work: str
    dataset: str | None = None
    plan: str | None = None
    edited: list[str] = []
    cases: int = 0
    preprocessed: int = 0
    runs: list[RunStatus] = []
    next: list[str]


@takes(StatusOptions)
def status(options: StatusOptions) -> Status:
    """Read the state of a work folder.

    Raises:
        UserError: If there is no such folder, or its plan was edited into something impossible.
    """
    path = options.work
    work = WorkFolder(path)
    if not path.is_dir():
        raise no_folder(path, "run `segtl plan DATASET` first")
    if not work.plan.is_file():
        return Status(work=str(path), next=["segtl plan DATASET"])
    plan = Plan.load(work.plan)
    folder = work.plan_folder(plan)
    runs = [_run_status(folder, run, current=True) for run in folder.runs]
    earlier = [
        _run_status(other, run, current=False)
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


def _run_status(folder: PlanFolder, run: RunFolder, *, current: bool) -> RunStatus:
    state: RunState = "not started"
    dice = problem = shortfall = None
    try:
        if run.started:
            state = "interrupted" if not run.finished else "validated" if run.validated else "trained"
        if state in ("validated", "trained"):
            shortfall = Manifest.load(run.manifest).result.shortfall
        if state == "validated":
            from seg_transfer.evaluation.scores import Scores

            dice = none_if_undefined(Scores.load(run.scores).mean_dice)
    except UserError as error:
        state, problem = "damaged", str(error)
    name, path = folder.name, str(run.path)
    return RunStatus(
        plan=name,
        current=current,
        fold=run.fold,
        state=state,
        mean_dice=dice,
        folder=path,
        problem=problem,
        shortfall=shortfall,
    )


def _next(work: WorkFolder, runs: list[RunStatus]) -> list[str]:
    """The next commands."""
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
