"""Trains and validates folds of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from seg_transfer.data.dataset import Dataset
from seg_transfer.data.formats import check_packages
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.train_options import TrainOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import scratch_control
from seg_transfer.training.launch import joined, place_of
from seg_transfer.training.ranks import current
from seg_transfer.training.run_folder import fold_name
from seg_transfer.util import environment
from seg_transfer.workflow.preprocess import preprocess_missing
from seg_transfer.workflow.work_folder import WorkFolder, fold_from_text

if TYPE_CHECKING:
    from seg_transfer.workflow.validate import TrainedFold


@takes(TrainOptions)
def train(options: TrainOptions) -> list[TrainedFold]:
    """Train and validate folds; resumes an interrupted call, and preprocesses missing cases first.

    A given budget or random seed replaces the plan's and is recorded with the run. A from-scratch control has its own
    plan in ``runs/``, which differs in weights and strategy only. The comparison is in ``validation/control.json`` of
    the fold. Finished runs are not trained again.

    Over several devices the processes share every batch and the held-out cases. Everything else is done by the first
    one; in the others this ends when the first one does.

    Returns:
        The trained folds, in order, with their controls; none in a process that another one leads.

    Raises:
        UserError: If there is no plan or no such fold, cases cannot be preprocessed, or files to validate on are gone;
            with ``control``, if the plan is from scratch itself, or a fold holds no case out.
    """
    device = environment.resolve_device(options.device)
    place = place_of(options.devices)
    if place is None:
        return _train(options.model_copy(update={"device": device}))
    if options.scratch is not None and place.machines > 1:
        what = f"a folder of one machine cannot serve {place.machines}"
        raise UserError(what, where="--scratch", hint="omit it: the cases are read from the work folder")
    _check_batch(WorkFolder(options.work).load_plan(), place.size)  # before there are so many processes
    environment.check_torch()
    import torch

    command = ["train", options.fold, "--work", str(options.work), "--device", options.device]
    with joined(options.devices, device, [*command, "--devices", str(options.devices)]) as ranks:
        if ranks.rank == 0:
            return _train(options.model_copy(update={"device": ranks.device}))
        torch.set_num_threads(max(1, environment.cores() // ranks.here))
        ranks.follow()
        return []


def _train(options: TrainOptions) -> list[TrainedFold]:
    work = WorkFolder(options.work)
    plan = work.load_plan()
    if options.fold == "cv":
        folds: list[Fold] = [*range(len(plan.recipe.splits))]
    else:
        folds = [fold_from_text(options.fold, plan, option="FOLD")]
    if options.control:
        _check_control(plan, folds)
    environment.check_torch()
    import torch

    from seg_transfer.training.trackers import check_trackers

    check_trackers(options.track)

    from seg_transfer.preprocessing.store import Store
    from seg_transfer.workflow.compare import train_control
    from seg_transfer.workflow.validate import check_held_out, train_and_validate

    dataset = Dataset.load(work.dataset)
    check_packages(dataset.files())
    folder = work.plan_folder(plan)
    for fold in folds:
        check_held_out(plan, dataset, folder.run(fold))
    preprocess_missing(work, plan, dataset, environment.case_workers(options.workers, dataset.files()))
    torch.set_num_threads(max(1, environment.cores() // current().here))
    store = Store.open(work.store_folder(plan), plan.data)
    if options.scratch is not None:
        store = store.copied_into(options.scratch)
    folder.keep_plan()
    trained = []
    for fold in folds:
        result = train_and_validate(plan, dataset, store, folder.run(fold), options=options)
        if options.control:
            control = work.plan_folder(scratch_control(plan))
            result = train_control(result, control, dataset, store, options=options)
        trained.append(result)
    return trained


def _check_batch(plan: Plan, size: int) -> None:
    batch = plan.recipe.batch_size
    if batch < size:
        what = f"a batch of {batch} cannot be shared by {size} devices: each needs a sample"
        raise UserError(what, where="--devices", hint=f"use at most {batch}, or plan with a larger batch")


def _check_control(plan: Plan, folds: Sequence[Fold]) -> None:
    """Refuse a control if there is nothing to compare."""
    if plan.model.head != "unet":
        what = f"a {plan.model.head} classifier is fitted on the frozen encoder: it has no from-scratch control"
        raise UserError(what, where="--control", hint="compare with random weights by `segtl probe`")
    if plan.model.weights.source == "none":
        what = "the plan starts from random weights itself: there is no pretrained start to compare"
        raise UserError(what, where="--control", hint="omit it, or plan with pretrained --weights")
    for fold in folds:
        if fold == "full" or not plan.recipe.splits[fold].validation:
            what = f"{fold_name(fold)} holds no case out: there is nothing to compare"
            raise UserError(what, where="--control", hint="train a fold that holds cases out, such as `segtl train 0`")
