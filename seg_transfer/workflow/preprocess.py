"""Prepares cases for training: writes them into the preprocessed store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.plan_options import PreprocessOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.cases import preprocess_dataset
from seg_transfer.util import environment
from seg_transfer.workflow.work_folder import Work


@takes(PreprocessOptions)
def preprocess(options: PreprocessOptions) -> Path:
    """Prepare every case of the plan for training; cases that are prepared already are skipped.

    Returns:
        Folder of the preprocessed cases.

    Raises:
        SomeCasesFailed: If some cases could not be prepared; the others are.
        UserError: If there is no plan.
    """
    place = Work(options.work)
    made = place.load_plan()
    folder = place.store_folder(made)
    failures = preprocess_dataset(
        Dataset.load(place.dataset),
        made.data,
        folder,
        workers=environment.case_workers(options.workers),
    )
    if failures:
        raise SomeCasesFailed(failures)
    return folder


def prepare(place: Work, made: Plan, dataset: Dataset, workers: int, cases: Sequence[str] | None = None) -> None:
    """Preprocess what is missing of some cases, by default of all.

    Raises:
        UserError: If one cannot be prepared; all of them are named.
    """
    folder = place.store_folder(made)
    failures = preprocess_dataset(dataset, made.data, folder, cases=cases, workers=workers)
    if failures:
        listed = "; ".join(f"{case}: {cause}" for case, cause in failures.items())
        hint = "fix these files, or leave the cases out with `segtl plan --cases`"
        raise UserError(f"{len(failures)} case(s) cannot be prepared: {listed}", where=folder, hint=hint)
