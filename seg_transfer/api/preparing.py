"""Cases in the store, before anything reads them from there."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.preprocess import preprocess_dataset
from seg_transfer.workdir import Work


def prepare(place: Work, made: Plan, dataset: Dataset, workers: int, cases: Sequence[str] | None = None) -> None:
    """Preprocess what is missing of some cases, by default of all.

    Raises:
        UserError: If one cannot be prepared; all of them are named.
    """
    folder = place.store_folder(made)
    failures = preprocess_dataset(dataset, made.data, folder, cases=cases, workers=workers)
    if failures:
        listed = "; ".join(f"{case}: {cause}" for case, cause in failures.items())
        mend = "mend these files, or leave the cases out with `segtl plan --cases`"
        raise UserError(f"{len(failures)} case(s) cannot be prepared: {listed}", where=folder, mend=mend)
