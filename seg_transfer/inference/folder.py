"""A folder of cases -> a folder of label maps; cases are read ahead and written behind while one is predicted."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import LOSSY_ENDINGS
from seg_transfer.data.image import ending, is_raster, read_header, read_image, write_volume
from seg_transfer.errors import UserError
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.util.files import make_folder, whole_file
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)

__all__ = ["Predictor", "predict_folder"]

R = TypeVar("R")
PROBABILITIES = "probabilities"
BYTES_AHEAD = 16
"""Memory that a case prepared ahead may need, per voxel and channel of its files: stored values, prepared image (which
may be on a finer grid) and what is between."""
SHARE_AHEAD = 0.25
"""Of the memory that is free, what one case prepared ahead may need at most."""


def predict_folder(
    predictor: Predictor,
    cases: Sequence[Case],
    output: Path,
    *,
    probabilities: bool = False,
    tta: bool = True,
    overwrite: bool = False,
    workers: int = 1,
) -> dict[str, str]:
    """Predict every case and write its label map.

    ``<output>/<case><ending of the input>`` holds the label map with the user's label values, in the geometry of the
    case's first file (``.png`` for JPEG, whose compression would change labels).

    Args:
        predictor: The models.
        cases: What to predict; labels are not read.
        output: Folder; made if need be.
        probabilities: Also write ``<output>/probabilities/<case>.nii.gz`` (one map per output along the fourth
            axis), or for pictures ``.npz`` with ``probabilities`` ``(output, row, column)``.
        tta: Average over the plan's mirrorings.
        overwrite: Predict again what is there; otherwise it is skipped.
        workers: Cases prepared ahead, each in a thread of its own, beside one that is written behind; 0: one case after
            the other, without threads. Memory holds the case being predicted (see :class:`Predictor`), as many prepared
            images more, and the label map (with ``probabilities``, these too) of the one being written. A case that
            would need more than a quarter of the free memory is not prepared ahead: it waits until the cases before it
            are predicted.

    Returns:
        Case identifier -> one-line cause, for the cases that failed; the others are done.
    """
    make_folder(output)
    todo = [case for case in cases if overwrite or not _is_done(case, output, probabilities)]
    if len(todo) < len(cases):
        logger.info(f"{len(cases) - len(todo)} of {len(cases)} cases are in {output} already and are skipped")
    failures: dict[str, str] = {}

    def read(case: Case) -> tuple[CaseTransform, NDArray[np.float32]]:
        return predictor.prepare(read_image(case.images))

    def write_with_probabilities(case: Case, transform: CaseTransform, predicted: NDArray[np.float32]) -> None:
        with _reported(case, failures):
            _write_probabilities(_probabilities_file(case, output), transform, predicted, predictor.plan.data)
            # Last, since a case counts as done once its label map is there.
            write_volume(label_file(case, output), predictor.labels_of(transform, predicted), transform.native)

    def write_labels(case: Case, transform: CaseTransform, labels: NDArray[np.integer]) -> None:
        with _reported(case, failures):
            write_volume(label_file(case, output), labels, transform.native)

    with _threads(workers) as reader, _threads(min(workers, 1)) as writer:
        written: Future[None] | None = None
        ahead = _Ahead(reader, read, todo, workers)
        for case in track(todo, total=len(todo), title="predicting"):
            with _reported(case, failures):
                transform, array = ahead.take().result()
                if probabilities:
                    work = partial(write_with_probabilities, case, transform, predictor.probabilities(array, tta=tta))
                else:
                    work = partial(write_labels, case, transform, predictor.labels(transform, array, tta=tta))
                del array
                if written is not None:
                    written.result()  # one at a time, or finished cases would pile up in memory
                written = writer.submit(work)
                del work
    return failures


@contextmanager
def _reported(case: Case, failures: dict[str, str]) -> Iterator[None]:
    """Note what goes wrong with one case, so that the others go on."""
    try:
        yield
    except Exception as error:
        failures[case.id] = report_failure(case.id, error, title="predicting").cause


class _AtOnce(Executor):
    """Does work when it is asked for, in the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def _threads(count: int) -> Executor:
    return ThreadPoolExecutor(count) if count else _AtOnce()


class _Ahead(Generic[R]):
    """Work on cases that starts while ``count`` cases before it are in use or waiting, if memory allows."""

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
    """Whether there is memory to prepare a case while others are worked on."""
    try:
        headers = [read_header(path) for path in case.images]
    except UserError:
        return True  # said when the case is read
    voxels = sum(header.channels * math.prod(header.shape) for header in headers)
    return BYTES_AHEAD * voxels <= SHARE_AHEAD * psutil.virtual_memory().available


def label_file(case: Case, output: Path) -> Path:
    """Where a case's label map goes."""
    kind = ending(case.images[0])
    return output / f"{case.id}{'.png' if kind in LOSSY_ENDINGS else kind}"


def _probabilities_file(case: Case, output: Path) -> Path:
    return output / PROBABILITIES / f"{case.id}{'.npz' if is_raster(case.images[0]) else '.nii.gz'}"


def _is_done(case: Case, output: Path, probabilities: bool) -> bool:
    return label_file(case, output).is_file() and (not probabilities or _probabilities_file(case, output).is_file())


def _write_probabilities(path: Path, transform: CaseTransform, predicted: NDArray[np.float32], data: DataPlan) -> None:
    native = transform.restore_probabilities(predicted, data)
    if path.name.endswith(".nii.gz"):
        write_volume(path, native, transform.native)
    else:
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, probabilities=native[..., 0].transpose(0, 2, 1))
