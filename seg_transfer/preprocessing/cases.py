"""Preprocesses the cases of a data set into the store, one task per case."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.image import filled, read_image, read_label
from seg_transfer.data.instances import core_and_border
from seg_transfer.data.label_values import to_classes
from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.util.files import file_stamp
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.progress import track
from seg_transfer.util.remote import fetched

logger = logging.getLogger(__name__)


def preprocess_dataset(
    dataset: Dataset,
    data: DataPlan,
    folder: Path,
    *,
    workers: int,
    cases: Sequence[str] | None = None,
    check: bool = False,
) -> dict[str, str]:
    """Preprocess the plan's cases that are not in the store, and those whose files have changed since.

    Several processes may do so at once: each case is made by one of them.

    Args:
        dataset: The cases' files.
        data: The plan's data part; its ``cases`` are preprocessed.
        folder: The store's folder; made if it does not exist.
        workers: Processes; 0 works in this one. Each holds one case in memory.
        cases: Only these cases; None for all.
        check: Read every stored case to its end, and make damaged ones again. Otherwise those whose ``case.json`` is
            damaged are made again, and other damage is found when it is read.

    Returns:
        Case identifier -> one-line cause, for the cases that failed.

    Raises:
        UserError: If the folder holds another plan's store, or the plan names a case that the data set lacks.
    """
    store = Store.create(folder, data)
    store.remove_leftovers()
    stored = set(store.cases())
    chosen = dataset.select(data.cases if cases is None else cases).cases
    damaged = _damaged(store, [case for case in chosen if case.id in stored], whole=check)
    todo = [case for case in chosen if case.id not in stored or case.id in damaged or _has_changed(store, case)]
    if changed := [case.id for case in todo if case.id in stored and case.id not in damaged]:
        logger.info(f"preprocessed again, since their files have changed: {', '.join(changed)}")
    preprocess = partial(_preprocess_case, data=data, folder=folder)
    results = map_cases(preprocess, todo, workers=workers, title="preprocessing", name=lambda case: case.id)
    failures = {case.id: result.cause for case, result in results if isinstance(result, CaseFailure)}
    if failures:
        store.remove_leftovers()  # of workers that were killed
    return failures


def _damaged(store: Store, cases: Sequence[Case], *, whole: bool) -> set[str]:
    """Stored cases that are damaged; ``whole``: of which any byte is."""
    damaged = set()
    for case in track(cases, total=len(cases), title="checking the store") if whole else cases:
        try:
            stored = store.case(case.id)
            _ = stored.sources
            if whole:
                stored.check()
        except UserError as error:
            logger.warning(f"preprocessed again: {error.where}: {error.what}")
            damaged.add(case.id)
    return damaged


def _has_changed(store: Store, case: Case) -> bool:
    """Whether the files of a stored case have changed; not if they were deleted."""
    stamps = tuple(map(file_stamp, case.stored))
    return None not in stamps and stamps != store.case(case.id).sources


def _preprocess_case(case: Case, *, data: DataPlan, folder: Path) -> None:
    assert case.label is not None, "every case of a data set has a label"
    store = Store(folder, data)
    with store.making(case.id):
        parts = case.stored
        for part in parts:
            fetched(part)
        sources = [stamp for stamp in map(file_stamp, parts) if stamp]  # before reading, to notice later changes
        if store.holds(case.id, sources):  # made by another process meanwhile
            return
        image = read_image(case.images)
        if data.fill_nan:
            image = filled(image)
        transform = CaseTransform.fit(image, data)
        # The plan's labels, not the data set's: the plan may be edited, and the network's classes are the plan's.
        label = read_label(case.label, grid=image.native, names=data.names)
        values = core_and_border(label.array[0], label.spacing) if data.instances else label.array[0]
        classes = transform.label(to_classes(values, data.stored_values))
        store.add(case.id, transform.slabs(image), classes, transform, sources=sources)
