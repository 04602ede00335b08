"""Preprocesses the cases of a plan into the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.plan_options import PreprocessOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.util import environment
from seg_transfer.workflow.work_folder import WorkFolder


@takes(PreprocessOptions)
def preprocess(options: PreprocessOptions) -> Path:
    """Preprocess every case of the current plan; preprocessed cases whose files have not changed are skipped.

    Every byte of these is read and checked; damaged ones are preprocessed again.

    Returns:
        Folder of the preprocessed cases.

    Raises:
        SomeCasesFailed: If some cases could not be preprocessed; all others are.
        UserError: If there is no plan.
    """
    from seg_transfer.preprocessing.cases import preprocess_dataset

    work = WorkFolder(options.work)
    plan = work.load_plan()
    folder = work.store_folder(plan)
    dataset = Dataset.load(work.dataset)
    workers = environment.case_workers(options.workers, dataset.files())
    failures = preprocess_dataset(dataset, plan.data, folder, workers=workers, check=True)
    if failures:
        raise SomeCasesFailed(failures, of=len(plan.data.cases))
    return folder


def preprocess_missing(
    work: WorkFolder, plan: Plan, dataset: Dataset, workers: int, cases: Sequence[str] | None = None
) -> None:
    """Preprocess the given cases, by default all, that are missing in the store.

    Raises:
        UserError: With all cases that cannot be preprocessed.
    """
    from seg_transfer.preprocessing.cases import preprocess_dataset

    folder = work.store_folder(plan)
    failures = preprocess_dataset(dataset, plan.data, folder, cases=cases, workers=workers)
    if failures:
        listed = "; ".join(f"{case}: {cause}" for case, cause in failures.items())
        hint = "fix these files, or leave the cases out with `segtl plan --cases`"
        raise UserError(f"{len(failures)} case(s) cannot be preprocessed: {listed}", where=folder, hint=hint)
