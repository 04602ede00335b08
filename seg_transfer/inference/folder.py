"""Predicts cases into a folder of label maps; the next cases are read and the last one is written meanwhile."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import psutil

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import read_header
from seg_transfer.errors import UserError
from seg_transfer.inference.one_case import CasePredictor, CaseSteps, Predicted, warn_if_unlike
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictions import PredictionLog
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track

R = TypeVar("R")
BYTES_AHEAD = 16
"""Estimated memory to prepare a case, per voxel and channel of its files: stored values, intermediate arrays and the
image on the network's grid, which may be finer."""
SHARE_AHEAD = 0.25
"""Share of the free memory that a case prepared ahead may need at most."""


def predict_folder(
    predictor: CasePredictor,
    cases: Sequence[Case],
    outputs: Outputs,
    *,
    tta: bool = True,
    workers: int = 1,
    log: PredictionLog | None = None,
) -> dict[str, str]:
    """Predict every case and write its label map, with the data set's label values and its first file's geometry.

    Args:
        predictor: The models.
        cases: The cases to predict; labels are not read.
        outputs: Where the files are written; they replace what is there.
        tta: Average over the plan's mirrorings.
        workers: Cases prepared ahead, each in a thread, while another thread writes; 0: no threads. Memory holds the
            case being predicted (see :class:`Predictor`), this many prepared images, and the label map (probabilities,
            entropy map) being written. A case that would need more than a quarter of the free memory is prepared
            only after the cases before it are predicted.
        log: Records the cases; those that are unlike the training images get a warning.

    Returns:
        Case identifier -> one-line cause, for the cases that failed.
    """
    make_folder(outputs.folder)
    failures: dict[str, str] = {}
    steps = CaseSteps(predictor, outputs, tta, None if log is None else log.model)

    def write(case: Case, predicted: Predicted) -> None:
        with _reported(case, failures):
            made = steps.write(case, predicted)
            if log is not None and made is not None:
                warn_if_unlike(case, made.warnings[len(predicted.warnings) :])  # the others were told at once
                log.add(case, made)

    try:
        with _threads(workers) as reader, _threads(min(workers, 1)) as writer:
            writing: Future[None] | None = None
            ahead = _Ahead(reader, steps.read, cases, workers)
            for case in track(cases, total=len(cases), title="predicting"):
                with _reported(case, failures):
                    prepared = ahead.take().result()
                    warn_if_unlike(case, prepared.warnings)
                    predicted = steps.predict(case, prepared)
                    del prepared
                    if writing is not None:
                        writing.result()  # one at a time, so that memory does not fill with predicted cases
                    writing = writer.submit(write, case, predicted)
                    del predicted
            if writing is not None:
                writing.result()
    finally:
        if log is not None and cases:
            log.save()
    return failures


@contextmanager
def _reported(case: Case, failures: dict[str, str]) -> Iterator[None]:
    """Record the failure of one case; the others continue, unless the disk is full or another limit is reached."""
    try:
        yield
    except Exception as error:
        failures[case.id] = report_failure(case.id, error, title="predicting").cause


class _Sequential(Executor):
    """Runs each call in the caller's thread when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _threads(count: int) -> Executor:
    return ThreadPoolExecutor(count) if count else _Sequential()


class _Ahead(Generic[R]):
    """Starts work on up to ``count`` cases ahead of the one in use, if memory allows."""

    def __init__(self, executor: Executor, work: Callable[[Case], R], cases: Sequence[Case], count: int) -> None:
        self._executor, self._work, self._count = executor, work, count
        self._waiting, self._started = deque(cases), deque[Future[R]]()

    def take(self) -> Future[R]:
        """The next case's work."""
        while self._waiting and len(self._started) <= self._count:
            if self._started and not _fits_beside(self._waiting[0]):
                break
            self._started.append(self._executor.submit(self._work, self._waiting.popleft()))
        return self._started.popleft()


def _fits_beside(case: Case) -> bool:
    """Whether a case fits into memory beside others."""
    try:
        headers = [read_header(path) for path in case.images]
    except UserError:
        return True  # reported when the case is read
    voxels = sum(header.channels * math.prod(header.shape) for header in headers)
    return BYTES_AHEAD * voxels <= SHARE_AHEAD * psutil.virtual_memory().available
