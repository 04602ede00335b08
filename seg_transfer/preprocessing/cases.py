"""From a data set's files to the preprocessed store, one task per case."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.image import read_image, read_label
from seg_transfer.data.label_values import to_classes
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.files import file_stamp
from seg_transfer.util.parallel import CaseFailure, map_cases

logger = logging.getLogger(__name__)


def preprocess_dataset(
    dataset: Dataset, data: DataPlan, folder: Path, *, workers: int, cases: Sequence[str] | None = None
) -> dict[str, str]:
    """Preprocess the plan's cases that are not in the store yet, and those whose files have changed since.

    Args:
        dataset: Where the files are.
        data: The plan's part on data; its ``cases`` are preprocessed.
        folder: The store's folder; made if need be.
        workers: Processes; 0 works in this one. Each holds one case in memory.
        cases: Only these of them; None for all.

    Returns:
        Case identifier -> one-line cause, for the cases that failed; the others are done.

    Raises:
        UserError: If the folder holds another plan's store, or the plan names a case that the data set lacks.
    """
    store = Store.create(folder, data)
    there = set(store.cases())
    todo = [
        case
        for case in dataset.select(data.cases if cases is None else cases).cases
        if case.id not in there or _has_changed(store, case)
    ]
    if changed := [case.id for case in todo if case.id in there]:
        logger.info(f"prepared again, since their files have changed: {', '.join(changed)}")
    work = partial(_preprocess_case, data=data, folder=folder)
    results = map_cases(work, todo, workers=workers, title="preprocessing", name=lambda case: case.id)
    return {case.id: result.cause for case, result in results if isinstance(result, CaseFailure)}


def _stamps(case: Case) -> list[str | None]:
    return [file_stamp(path) for path in (*case.images, *([case.label] if case.label else []))]


def _has_changed(store: Store, case: Case) -> bool:
    """Whether a stored case was made from other files than lie there now; one whose files are gone has not changed."""
    stamps = _stamps(case)
    return None not in stamps and tuple(stamps) != store.case(case.id).sources


def _preprocess_case(case: Case, *, data: DataPlan, folder: Path) -> None:
    assert case.label is not None, "every case of a data set has a label"
    sources = [stamp for stamp in _stamps(case) if stamp is not None]  # before reading: what changes later is noticed
    image = read_image(case.images)
    transform = CaseTransform.fit(image, data)
    # The plan's labels, not the data set's: the plan may be edited, and the network's classes are the plan's.
    label = transform.label(to_classes(read_label(case.label).array[0], data.stored_values))
    Store(folder, data).add(case.id, transform.slabs(image), label, transform, sources=sources)
