"""Trained models that stay in memory, for many images of a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seg_transfer.data.description import BACKGROUND
from seg_transfer.data.formats import itk, nifti
from seg_transfer.data.geometry import Grid
from seg_transfer.data.image import image_in_memory, image_with_affine
from seg_transfer.errors import UserError
from seg_transfer.options.calls import look_at_addresses, options_from
from seg_transfer.options.model_options import SegmenterOptions
from seg_transfer.workflow.source import find_source, load_predictor

if TYPE_CHECKING:
    from seg_transfer.inference.predictor import Predictor


class Segmenter:
    """Trained models that stay in memory.

    Calls are not thread-safe: give each thread a segmenter of its own, or let one thread at a time call it.

    Example:
        >>> segmenter = seg_transfer.Segmenter.load("model.segtl")
        >>> labels = segmenter(nibabel.load("ct.nii.gz"))  # an image of nibabel on the same grid
        >>> labels = segmenter(SimpleITK.ReadImage("ct.nrrd"))  # an image of SimpleITK
        >>> labels = segmenter(array, spacing=(0.8, 0.8, 3.0))  # (x, y, z)
        >>> labels, probabilities = segmenter(array, affine=affine, probabilities=True)
        >>> labels, entropy, confidence = segmenter(array, affine=affine, uncertainty=True)

    Args:
        predictor: The models.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @classmethod
    def load(cls, model: Path | str | None = None, **options: Any) -> Segmenter:
        """Load an exported model, or the models of a work folder, as `predict` does.

        Args:
            model: Exported model; None for those of a work folder.
            **options: ``work``, ``folds``, ``device`` and ``memory`` of :func:`seg_transfer.predict`.

        Raises:
            UserError: If there is no trained model, it is damaged, or needs more than the allowed memory.
        """
        found = options_from(SegmenterOptions, "Segmenter.load", model=model, **options)
        look_at_addresses(found)
        return cls(load_predictor(find_source(found), found))

    @property
    def labels(self) -> dict[str, int]:
        """Name -> value in label maps, with the background; objects that are told apart are numbered from 1."""
        return {BACKGROUND: 0, **self._predictor.plan.data.written_names}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names along the first axis of probabilities."""
        return tuple(self._predictor.plan.data.outputs)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that an image must have, in their order."""
        return tuple(channel.name for channel in self._predictor.plan.data.channels)

    def __call__(
        self,
        image: Any,
        *,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        tta: bool = True,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Any:
        """Segment one image.

        Args:
            image: An image of nibabel, with channels along the fourth axis; an image of SimpleITK, with channels as
                components; or an array: ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order with its ``spacing``,
                ``(channel, i, j, k)`` or ``(i, j, k)`` with its ``affine``, and for a model of 2D images
                ``(row, column)`` or ``(row, column, channel)``.
            spacing: Of an array, voxel size ``(x, y, z)`` in mm.
            affine: Of an array, 4 x 4, voxel ``(i, j, k)`` -> world (RAS+) in mm.
            tta: Average over the plan's mirrorings.
            probabilities: Also return the probability of each of :attr:`outputs`.
            uncertainty: Also return how sure the models are
                (:class:`seg_transfer.inference.uncertainty.Uncertainty`).

        Returns:
            The label map, of the image's own kind, order of axes and geometry, with the values of :attr:`labels`. With
            ``probabilities`` also those: as an image, channels as in ``image``; of an array, with a first axis of
            outputs. With ``uncertainty`` also the entropy in percent, as the label map is, and the confidence, a number
            from 0 to 1. So at most ``labels, probabilities, entropy, confidence``.

        Raises:
            UserError: If the image does not fit the model, or is not whole.
        """
        asked = {"tta": tta, "probabilities": probabilities, "uncertainty": uncertainty}
        return segment(self._predictor, image, spacing=spacing, affine=affine, **asked)


def segment(
    predictor: Predictor,
    image: Any,
    *,
    spacing: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    **asked: bool,
) -> Any:
    """Segment one image in memory; see :meth:`Segmenter.__call__`."""
    if isinstance(image, np.ndarray | list | tuple):
        if affine is None:
            return predictor.array(np.asanyarray(image), spacing, **asked)
        if spacing is not None:
            raise UserError("an array has an affine or a spacing, not both", hint="omit the spacing")
        return predictor.segment(image_with_affine(np.asanyarray(image), affine), **asked).result()
    if spacing is not None or affine is not None:
        raise UserError("an image has a spacing and an affine of its own", hint="omit them")
    read = image_in_memory(image)
    return predictor.segment(read, **asked).of_maps(lambda found: _like(image, found, read.native)).result()


def _like(image: Any, array: np.ndarray, grid: Grid) -> Any:
    """The array ``(i, j, k)`` or ``(output, i, j, k)`` as an image of the same library and geometry."""
    if "SimpleITK" not in sys.modules or not isinstance(image, sys.modules["SimpleITK"].Image):
        written = nifti.to_image(array, grid)
        return type(written)(written.dataobj, written.header.get_best_affine(), written.header)
    made = itk.to_image(array, grid)
    if image.GetDimension() == made.GetDimension():
        made.CopyInformation(image)  # not rounded, so that both can be combined
    return made
