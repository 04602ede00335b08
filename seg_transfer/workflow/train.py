"""From a plan to prepared cases and trained folds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.request import check_budget
from seg_transfer.planning.variants import scratch_twin
from seg_transfer.training.manifest import Fold
from seg_transfer.training.run_folder import fold_name
from seg_transfer.util import environment
from seg_transfer.util.progress import keep_log
from seg_transfer.workflow.options import at_most_one
from seg_transfer.workflow.preprocess import prepare
from seg_transfer.workflow.work_folder import DEFAULT, Work, fold_from_text

if TYPE_CHECKING:
    from seg_transfer.workflow.validate import TrainedFold


def train(
    fold: Fold | Literal["cv"] | str,
    *,
    work: Path | str = DEFAULT,
    epochs: int | None = None,
    time_budget: float | None = None,
    restart: bool = False,
    control: bool = False,
    device: str = "auto",
    workers: int | None = None,
    seed: int | None = None,
) -> list[TrainedFold]:
    """Train and validate; goes on where an earlier call stopped, and prepares cases first where that is missing.

    Args:
        fold: ``0 … K-1``, ``cv`` for all of these, or ``full`` for every case, which leaves none to validate on.
        work: Work folder with a plan.
        epochs: Budget in epochs, in place of the plan's; recorded with the run.
        time_budget: Budget in seconds of training, in place of the plan's; recorded with the run.
        restart: Start over instead of going on.
        control: Also train each fold's twin from scratch, alike in all but weights and strategy, under the same budget.
            It is a plan of its own in ``runs/``; what is trained already is not trained again. How both compare stands
            in ``validation/control.json`` of the fold.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Processes beside the training; 0 for none, None for as many as help.
        seed: In place of the plan's; recorded with the run.

    Returns:
        The trained folds, in order, with their twins.

    Raises:
        UserError: If there is no plan or no such fold, or cases cannot be prepared; with ``control``, if the plan is
            from scratch itself, or a fold holds no case out.
    """
    at_most_one(epochs=epochs, time_budget=time_budget)
    check_budget(epochs, time_budget)
    place = Work(Path(work))
    keep_log(place.log)
    made = place.load_plan()
    folds = [*range(len(made.recipe.splits))] if fold == "cv" else [fold_from_text(str(fold), made, option="FOLD")]
    if control:
        _check_control(made, folds)
    device = environment.resolve_device(device)
    environment.check_torch()
    from seg_transfer.preprocessing.store import Store
    from seg_transfer.training.state import RunOptions
    from seg_transfer.workflow.compare import train_twin
    from seg_transfer.workflow.validate import train_and_validate

    dataset = Dataset.load(place.dataset)
    case_workers = environment.case_workers() if workers is None else workers
    prepare(place, made, dataset, case_workers)
    options = RunOptions(
        device=device,
        epochs=epochs,
        time_budget=time_budget,
        restart=restart,
        seed=seed,
        workers=environment.training_workers(device) if workers is None else workers,
        threads=environment.cores(),
    )
    store = Store.open(place.store_folder(made), made.data)
    folder = place.plan_folder(made)
    folder.keep_plan()
    runs = []
    for one in folds:
        run = train_and_validate(made, dataset, store, folder.run(one), options=options, workers=case_workers)
        if control:
            twin = place.plan_folder(scratch_twin(made))
            run = train_twin(run, twin, dataset, store, options=options, workers=case_workers)
        runs.append(run)
    return runs


def _check_control(made: Plan, folds: Sequence[Fold]) -> None:
    """Refuse a control that would compare nothing."""
    if made.model.head != "unet":
        what = f"a {made.model.head} classifier is fitted on the frozen encoder, so that none starts from scratch"
        raise UserError(what, where="--control", hint="compare with random weights by `segtl probe`")
    if made.model.weights.source == "none":
        what = "the plan starts from random weights itself, so that there is no pretrained start to compare"
        raise UserError(what, where="--control", hint="leave it away, or plan with pretrained --weights")
    for fold in folds:
        if fold == "full" or not made.recipe.splits[fold].validation:
            what = f"{fold_name(fold)} holds no case out, so that there is nothing to compare"
            raise UserError(what, where="--control", hint="train a fold that holds cases out, such as `segtl train 0`")
