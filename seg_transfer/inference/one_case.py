"""The steps by which a case is predicted: read, predict, write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import write_volume
from seg_transfer.data.image import Image, read_image
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictions import Prediction, image_digests, record_of
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.util.files import whole_file

logger = logging.getLogger(__name__)


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


class Prepared(NamedTuple):
    """A case that is read.

    Attributes:
        transform: Its transform.
        array: The networks' input ``(channel, slice, u, v)``.
        images: Digests of its images, if they are recorded.
        warnings: In what it is unlike the training images, if that is recorded.
    """

    transform: Any
    array: NDArray[np.float32]
    images: tuple[str, ...]
    warnings: tuple[str, ...]


class Predicted(NamedTuple):
    """A case that is predicted and not written yet.

    Attributes:
        transform: Its transform.
        array: Its probabilities if they are written, else its label map.
        uncertainty: Of its labels, if that is written.
        images: As of :class:`Prepared`.
        warnings: As of :class:`Prepared`.
    """

    transform: Any
    array: NDArray[Any]
    uncertainty: Uncertainty | None
    images: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CaseSteps:
    """The steps, each of which may be at another case at the same time.

    Attributes:
        predictor: The models.
        outputs: Where the files are written; they replace what is there.
        tta: Average over the plan's mirrorings.
        model: Digest of the models, for the record; None: nothing is recorded.
    """

    predictor: CasePredictor
    outputs: Outputs
    tta: bool
    model: str | None

    def __call__(self, case: Case) -> Prediction | None:
        """All steps, one after the other."""
        return self.write(case, self.predict(self.read(case)))

    def read(self, case: Case) -> Prepared:
        """Read and prepare a case."""
        recorded = self.model is not None
        images = image_digests(case) if recorded else ()  # before reading: a later change is noticed
        image = read_image(case.images)
        transform, array = self.predictor.prepare(image, uncertainty=self.outputs.uncertainty)
        return Prepared(transform, array, images, self.predictor.unlike_training(image) if recorded else ())

    def predict(self, prepared: Prepared) -> Predicted:
        """Predict a case."""
        transform, array, *recorded = prepared
        uncertainty = Uncertainty(transform, self.predictor.data) if self.outputs.uncertainty else None
        predicted: NDArray[Any]
        if self.outputs.probabilities:
            predicted = self.predictor.probabilities(array, tta=self.tta)
        else:
            predicted = self.predictor.labels(transform, array, tta=self.tta, uncertainty=uncertainty)
        return Predicted(transform, predicted, uncertainty, *recorded)

    def write(self, case: Case, predicted: Predicted) -> Prediction | None:
        """Write the files of a case; how they were made, if that is recorded."""
        outputs, data = self.outputs, self.predictor.data
        transform, array, uncertainty, images, warnings = predicted
        if outputs.probabilities:
            _write_probabilities(outputs.probability_maps(case), transform, array, data)
            array = self.predictor.labels_of(transform, array, uncertainty)
        if uncertainty is not None:
            write_volume(outputs.entropy_map(case), uncertainty.entropy, transform.native)
        write_volume(outputs.label_map(case), array, transform.native, data.written_names)
        if self.model is None:
            return None
        confidence = None if uncertainty is None else uncertainty.confidence
        return record_of(
            case,
            outputs,
            model=self.model,
            tta=self.tta,
            images=images,
            warnings=warnings,
            confidence=confidence,
        )


def warn_if_unlike(case: Case, warnings: tuple[str, ...]) -> None:
    """Tell in what a case is unlike the training images."""
    for warning in warnings:
        logger.warning(f"{case.id} is unlike the training images: {warning}")


def _write_probabilities(path: Path, transform: Any, predicted: NDArray[Any], data: DataPlan) -> None:
    native = transform.restore_probabilities(predicted, data)
    if path.name.endswith(".nii.gz"):
        write_volume(path, native, transform.native)
    else:
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, probabilities=native[..., 0].transpose(0, 2, 1))
