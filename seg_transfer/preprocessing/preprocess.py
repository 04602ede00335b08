"""From a data set's files to the preprocessed store, one task per case."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.image import read_image, read_label
from seg_transfer.parallel import CaseFailure, map_cases
from seg_transfer.planning.plan import DataPlan
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.transform import CaseTransform


def preprocess_dataset(dataset: Dataset, data: DataPlan, folder: Path, *, workers: int) -> dict[str, str]:
    """Preprocess the plan's cases that are not in the store yet.

    Args:
        dataset: Where the files are.
        data: The plan's part on data; its ``cases`` are preprocessed.
        folder: The store's folder; made if need be.
        workers: Processes; 0 works in this one. Each holds one case in memory.

    Returns:
        Case identifier -> one-line cause, for the cases that failed; the others are done.

    Raises:
        UserError: If the folder holds another plan's store, or the plan names a case that the data set lacks.
    """
    there = set(Store.create(folder, data).cases())
    todo = [case for case in dataset.select(data.cases).cases if case.id not in there]
    # The task of every case carries the data set along, of which it needs the labels alone.
    work = partial(_preprocess_case, dataset=dataset.select([]), data=data, folder=folder)
    results = map_cases(work, todo, workers=workers, title="preprocessing", name=lambda case: case.id)
    return {case.id: result.cause for case, result in results if isinstance(result, CaseFailure)}


def _preprocess_case(case: Case, *, dataset: Dataset, data: DataPlan, folder: Path) -> None:
    assert case.label is not None, "every case of a data set has a label"
    image = read_image(case.images)
    transform = CaseTransform.fit(image, data)
    label = transform.label(dataset.classes(read_label(case.label)))
    Store(folder, data).add(case.id, transform.image(image), label, transform)
