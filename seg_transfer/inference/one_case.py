"""The steps by which a case is predicted: read, predict, write."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.chunked_image import ChunkedImage
from seg_transfer.data.dataset import Case
from seg_transfer.data.formats import is_zarr, ome_zarr_writer, write_volume
from seg_transfer.data.image import Image, read_image
from seg_transfer.inference.blocks import blocks_of, predict_block
from seg_transfer.inference.classes import label_values
from seg_transfer.inference.largest_of_chunks import keep_largest_of_chunks
from seg_transfer.inference.outputs import Outputs
from seg_transfer.inference.predictions import Prediction, image_digests, record_of
from seg_transfer.inference.predictor import Predictor
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.unlike_training import unlike_measured
from seg_transfer.preprocessing.chunked_case import ChunkedCase
from seg_transfer.util.files import whole_file, whole_folder
from seg_transfer.util.progress import track

logger = logging.getLogger(__name__)


class CasePredictor(Protocol):
    """What a predictor has to have: :class:`~seg_transfer.inference.predictor.Predictor`, or one of nnU-Net's models.

    Transforms belong to their predictor: they have the file's grid as ``native``, and ``restore_probabilities``.
    """

    @property
    def data(self) -> DataPlan: ...
    def prepare(self, image: Image, *, uncertainty: bool = False) -> tuple[Any, NDArray[np.float32]]: ...
    def unlike_training(self, image: Image) -> tuple[str, ...]: ...
    def unlike_volumes(self, label_map: NDArray[Any], transform: Any) -> tuple[str, ...]: ...
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
        transform: Its transform; of a case that is predicted in blocks the case.
        array: The networks' input ``(channel, slice, u, v)``; None of a case that is predicted in blocks.
        images: Digests of its images, if they are recorded.
        warnings: In what it is unlike the training images, if that is recorded.
    """

    transform: Any
    array: NDArray[np.float32] | None
    images: tuple[str, ...]
    warnings: tuple[str, ...]


class Predicted(NamedTuple):
    """A case that is predicted and not written yet.

    Attributes:
        transform: As of :class:`Prepared`.
        array: Its probabilities if they are written, else its label map; None of a case that is predicted in blocks.
        uncertainty: Of its labels, if that is written.
        images: As of :class:`Prepared`.
        warnings: As of :class:`Prepared`.
    """

    transform: Any
    array: NDArray[Any] | None
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
        return self.write(case, self.predict(case, self.read(case)))

    def read(self, case: Case) -> Prepared:
        """Read and prepare a case."""
        recorded = self.model is not None
        images = image_digests(case) if recorded else ()  # before reading: a later change is noticed
        predictor = self._block_predictor(case)
        if predictor is not None:
            chunked = ChunkedCase(ChunkedImage(case.images), predictor.data)
            warnings = unlike_measured(chunked.measures, predictor.plan) if recorded else ()
            return Prepared(chunked, None, images, warnings)
        image = read_image(case.images)
        transform, array = self.predictor.prepare(image, uncertainty=self.outputs.uncertainty)
        return Prepared(transform, array, images, self.predictor.unlike_training(image) if recorded else ())

    def predict(self, case: Case, prepared: Prepared) -> Predicted:
        """Predict a case; one that is predicted in blocks is written too."""
        transform, array, *recorded = prepared
        if array is None:
            self._write_blocks(case, transform)
            return Predicted(transform, None, None, *recorded)
        uncertainty = Uncertainty(transform, self.predictor.data) if self.outputs.uncertainty else None
        predicted: NDArray[Any]
        if self.outputs.probabilities:
            predicted = self.predictor.probabilities(array, tta=self.tta)
        else:
            predicted = self.predictor.labels(transform, array, tta=self.tta, uncertainty=uncertainty)
        return Predicted(transform, predicted, uncertainty, *recorded)

    def write(self, case: Case, predicted: Predicted) -> Prediction | None:
        """Write the files of a case; how they were made, if that is recorded.

        The record also has which labels have a volume unlike those of the training cases, but for a case that is
        predicted in blocks.
        """
        outputs, data = self.outputs, self.predictor.data
        transform, array, uncertainty, images, warnings = predicted
        if array is not None and outputs.probabilities:
            _write_probabilities(outputs.probability_maps(case), transform, array, data)
            array = self.predictor.labels_of(transform, array, uncertainty)
        if uncertainty is not None:
            write_volume(outputs.entropy_map(case), uncertainty.entropy, transform.native)
        if array is not None:
            write_volume(outputs.label_map(case), array, transform.native, data.written_names)
        if self.model is None:
            return None
        if array is not None:
            warnings = (*warnings, *self.predictor.unlike_volumes(array, transform))
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

    def _block_predictor(self, case: Case) -> Predictor | None:
        """The predictor, if a case can be predicted block by block, which objects cannot; else None."""
        outputs, predictor = self.outputs, self.predictor
        if outputs.probabilities or outputs.uncertainty or not isinstance(predictor, Predictor):
            return None
        if predictor.data.instances:
            return None
        return predictor if all(map(is_zarr, (outputs.label_map(case), *case.images))) else None

    def _write_blocks(self, case: Case, chunked: ChunkedCase) -> None:
        assert isinstance(self.predictor, Predictor), "others read whole images"
        data, native = self.predictor.data, chunked.image.native
        blocks = blocks_of(self.predictor, chunked, ome_zarr_writer.chunk_size(native))
        with whole_folder(self.outputs.label_map(case), replace=True) as folder:
            created = ome_zarr_writer.created(folder, native, label_values(data).dtype)
            array = ome_zarr_writer.NativeArray(created, flat=native.flat)
            shown = track(blocks, total=len(blocks), title=f"{case.id}, block by block") if len(blocks) > 1 else blocks
            for block in shown:
                array[block] = predict_block(self.predictor, chunked, block, tta=self.tta)
            keep_largest_of_chunks(array, native, self.predictor.postprocessing, beside=folder)
            ome_zarr_writer.finish(folder, native, data.written_names)


def warn_if_unlike(case: Case, warnings: tuple[str, ...]) -> None:
    """Tell in what a case or its label map is unlike the training images."""
    for warning in warnings:
        logger.warning(f"{case.id} is unlike the training images: {warning}")


def _write_probabilities(path: Path, transform: Any, predicted: NDArray[Any], data: DataPlan) -> None:
    native = transform.restore_probabilities(predicted, data)
    if path.name.endswith(".nii.gz"):
        write_volume(path, native, transform.native)
    else:
        with whole_file(path) as temporary:
            np.savez_compressed(temporary, probabilities=native[..., 0].transpose(0, 2, 1))
