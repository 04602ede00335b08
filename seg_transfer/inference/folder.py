"""Predicts cases into a folder of label maps; the next cases are read and the last one is written meanwhile."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import LOSSY_ENDINGS, ending, is_raster, read_header, write_volume
from seg_transfer.data.image import read_image
from seg_transfer.errors import UserError
from seg_transfer.inference.predictor import Predictor
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.util.files import make_folder, whole_file
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)

R = TypeVar("R")
PROBABILITIES = "probabilities"
BYTES_AHEAD = 16
"""Estimated memory to prepare a case, per voxel and channel of its files: stored values, intermediate arrays and the
image on the network's grid, which may be finer."""
SHARE_AHEAD = 0.25
"""Share of the free memory that a case prepared ahead may need at most."""


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

    ``<output>/<case><ending of the input>`` has the data set's label values and the geometry of the case's first file
    (``.png`` for JPEG, whose compression would change labels).

    Args:
        predictor: The models.
        cases: The cases to predict; labels are not read.
        output: Folder of the label maps.
        probabilities: Also write ``<output>/probabilities/<case>.nii.gz`` (one map per output along the fourth
            axis), or for 2D images ``.npz`` with ``probabilities`` ``(output, row, column)``.
        tta: Average over the plan's mirrorings.
        overwrite: Predict cases again whose files exist; they are skipped otherwise.
        workers: Cases prepared ahead, each in a thread, while another thread writes; 0: no threads. Memory holds the
            case being predicted (see :class:`Predictor`), this many prepared images, and the label map (and
            ``probabilities``) being written. A case that would need more than a quarter of the free memory is prepared
            only after the cases before it are predicted.

    Returns:
        Case identifier -> one-line cause, for the cases that failed.
    """
    make_folder(output)
    pending = [case for case in cases if overwrite or not _is_done(case, output, probabilities)]
    if len(pending) < len(cases):
        logger.info(f"{len(cases) - len(pending)} of {len(cases)} cases are in {output} already and are skipped")
    failures: dict[str, str] = {}

    def read(case: Case) -> tuple[CaseTransform, NDArray[np.float32]]:
        return predictor.prepare(read_image(case.images))

    def write(case: Case, transform: CaseTransform, predicted: NDArray[Any]) -> None:
        with _reported(case, failures):
            if probabilities:
                _write_probabilities(_probabilities_file(case, output), transform, predicted, predictor.plan.data)
                predicted = predictor.labels_of(transform, predicted)
            # last, since a case with a label map counts as done
            write_volume(label_file(case, output), predicted, transform.native)

    with _threads(workers) as reader, _threads(min(workers, 1)) as writer:
        writing: Future[None] | None = None
        ahead = _Ahead(reader, read, pending, workers)
        for case in track(pending, total=len(pending), title="predicting"):
            with _reported(case, failures):
                transform, array = ahead.take().result()
                predicted: NDArray[Any]
                if probabilities:
                    predicted = predictor.probabilities(array, tta=tta)
                else:
                    predicted = predictor.labels(transform, array, tta=tta)
                del array
                if writing is not None:
                    writing.result()  # one at a time, so that memory does not fill with predicted cases
                writing = writer.submit(write, case, transform, predicted)
                del predicted
    return failures


@contextmanager
def _reported(case: Case, failures: dict[str, str]) -> Iterator[None]:
    """Record the failure of one case; the others continue."""
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


def label_file(case: Case, output: Path) -> Path:
    """Path of a case's label map."""
    suffix = ending(case.images[0])
    return output / f"{case.id}{'.png' if suffix in LOSSY_ENDINGS else suffix}"


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
