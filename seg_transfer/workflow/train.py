"""From a plan to prepared cases and trained folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.train_options import TrainOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import scratch_control
from seg_transfer.training.run_folder import fold_name
from seg_transfer.util import environment
from seg_transfer.workflow.preprocess import prepare
from seg_transfer.workflow.work_folder import Work, fold_from_text

if TYPE_CHECKING:
    from seg_transfer.workflow.validate import TrainedFold


@takes(TrainOptions)
def train(options: TrainOptions) -> list[TrainedFold]:
    """Train and validate; goes on where an earlier call stopped, and prepares cases first where that is missing.

    A budget or random seed that is given replaces the plan's and is recorded with the run. A from-scratch control is
    a plan of its own in ``runs/``, alike in all but weights and strategy; what is trained already is not trained
    again. How both compare is in ``validation/control.json`` of the fold.

    Returns:
        The trained folds, in order, with their controls.

    Raises:
        UserError: If there is no plan or no such fold, or cases cannot be prepared; with ``control``, if the plan is
            from scratch itself, or a fold holds no case out.
    """
    place = Work(options.work)
    made = place.load_plan()
    if options.fold == "cv":
        folds: list[Fold] = [*range(len(made.recipe.splits))]
    else:
        folds = [fold_from_text(options.fold, made, option="FOLD")]
    if options.control:
        _check_control(made, folds)
    options = options.model_copy(update={"device": environment.resolve_device(options.device)})
    environment.check_torch()
    import torch

    from seg_transfer.preprocessing.store import Store
    from seg_transfer.workflow.compare import train_control
    from seg_transfer.workflow.validate import train_and_validate

    dataset = Dataset.load(place.dataset)
    prepare(place, made, dataset, environment.case_workers(options.workers))
    torch.set_num_threads(environment.cores())
    store = Store.open(place.store_folder(made), made.data)
    folder = place.plan_folder(made)
    folder.keep_plan()
    runs = []
    for one in folds:
        run = train_and_validate(made, dataset, store, folder.run(one), options=options)
        if options.control:
            scratch = place.plan_folder(scratch_control(made))
            run = train_control(run, scratch, dataset, store, options=options)
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
