"""Predicts cases into a folder of label maps; the next cases are read and the last one is written meanwhile."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import read_header, write_volume
from seg_transfer.data.image import Image, read_image
from seg_transfer.errors import UserError
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictions import PredictionLog, image_digests
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util.files import make_folder, whole_file
from seg_transfer.util.parallel import report_failure
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)

R = TypeVar("R")
BYTES_AHEAD = 16
"""Estimated memory to prepare a case, per voxel and channel of its files: stored values, intermediate arrays and the
image on the network's grid, which may be finer."""
SHARE_AHEAD = 0.25
"""Share of the free memory that a case prepared ahead may need at most."""


class CasePredictor(Protocol):
    """What a predictor has to have: :class:`~seg_transfer.inference.predictor.Predictor`, or one of nnU-Net's models.

    Transforms belong to their predictor: they have the file's grid as ``native``, and ``restore_probabilities``.
    """

    @property
    def data(self) -> DataPlan: ...
    def prepare(self, image: Image, *, uncertainty: bool = False) -> tuple[Any, NDArray[np.float32]]: ...
    def unlike_training(self, image: Image) -> tuple[str, ...]: ...
    def probabilities(self, array: NDArray[np.float32], *, tta: bool = True) -> NDArray[Any]: ...
    def labels(
        self, transform: Any, array: NDArray[np.float32], *, tta: bool = True, uncertainty: Uncertainty | None = None
    ) -> NDArray[Any]: ...
    def labels_of(
        self, transform: Any, probabilities: NDArray[Any], uncertainty: Uncertainty | None = None
    ) -> NDArray[Any]: ...


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

    def read(case: Case) -> _Prepared:
        digests = image_digests(case) if log is not None else ()  # before reading: a later change is noticed
        image = read_image(case.images)
        transform, array = predictor.prepare(image, uncertainty=outputs.uncertainty)
        warnings = predictor.unlike_training(image) if log is not None else ()
        return _Prepared(transform, array, digests, warnings)

    def write(case: Case, prepared: _Prepared, predicted: NDArray[Any], uncertainty: Uncertainty | None) -> None:
        transform = prepared.transform
        with _reported(case, failures):
            if outputs.probabilities:
                _write_probabilities(outputs.probability_maps(case), transform, predicted, predictor.data)
                predicted = predictor.labels_of(transform, predicted, uncertainty)
            if uncertainty is not None:
                write_volume(outputs.entropy_map(case), uncertainty.entropy, transform.native)
            write_volume(outputs.label_map(case), predicted, transform.native, predictor.data.written_names)
            if log is not None:
                confidence = None if uncertainty is None else uncertainty.confidence
                log.add(case, prepared.digests, prepared.warnings, confidence)

    try:
        with _threads(workers) as reader, _threads(min(workers, 1)) as writer:
            writing: Future[None] | None = None
            ahead = _Ahead(reader, read, cases, workers)
            for case in track(cases, total=len(cases), title="predicting"):
                with _reported(case, failures):
                    prepared = ahead.take().result()
                    for warning in prepared.warnings:
                        logger.warning(f"{case.id} is unlike the training images: {warning}")
                    transform = prepared.transform
                    uncertainty = Uncertainty(transform, predictor.data) if outputs.uncertainty else None
                    predicted: NDArray[Any]
                    if outputs.probabilities:
                        predicted = predictor.probabilities(prepared.array, tta=tta)
                    else:
                        predicted = predictor.labels(transform, prepared.array, tta=tta, uncertainty=uncertainty)
                    prepared = prepared._replace(array=None)
                    if writing is not None:
                        writing.result()  # one at a time, so that memory does not fill with predicted cases
                    writing = writer.submit(write, case, prepared, predicted, uncertainty)
                    del predicted, uncertainty
            if writing is not None:
                writing.result()
    finally:
        if log is not None and cases:
            log.save()
    return failures


class _Prepared(NamedTuple):
    """A case that is read.

    Attributes:
        transform: Its transform.
        array: The networks' input ``(channel, slice, u, v)``; None once it is predicted, to free its memory.
        digests: Of its images, if they are recorded.
        warnings: In what it is unlike the training images.
    """

    transform: Any
    array: Any
    digests: tuple[str, ...]
    warnings: tuple[str, ...]


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


def _write_probabilities(path: Path, transform: Any, predicted: NDArray[Any], data: DataPlan) -> None:
    native = transform.restore_probabilities(predicted, data)
    if path.name.endswith(".nii.gz"):
        write_volume(path, native, transform.native)
    else:
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, probabilities=native[..., 0].transpose(0, 2, 1))
