"""Predicts label maps in the input's geometry, with one trained model or the mean of several folds."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.data.geometry import Box
from seg_transfer.data.image import Image, filled, image_from_array, image_from_pixels
from seg_transfer.errors import UserError
from seg_transfer.inference.classes import activate, decide, label_values
from seg_transfer.inference.known_extent import known_extent, positions_hold
from seg_transfer.inference.label_map import Slab, fill_labels
from seg_transfer.inference.memory import window_bytes
from seg_transfer.inference.postprocess import finish_labels
from seg_transfer.inference.segmentation import Segmentation
from seg_transfer.inference.sliding_window import NetworkFn, Part, join_slabs, predict_slabs
from seg_transfer.inference.trained_network import ready_network
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.inference.windows import VOXELS_PER_CALL, longest_axis, windows_box, written_shape
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.fields import Triple, part_hash
from seg_transfer.planning.model_file import NOTHING
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.planning.unlike_training import unlike_plan
from seg_transfer.planning.unlike_volumes import unlike_volumes
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.chunked_case import ChunkedCase
from seg_transfer.training.checkpoint import load_header, load_state
from seg_transfer.util.environment import free_memory
from seg_transfer.util.units import bytes_text

logger = logging.getLogger(__name__)

Integers = NDArray[np.integer]

MOST_VOXELS_PER_CALL = 2**24
BYTES_OF_OBJECTS = 12
"""Memory to number objects, per voxel of the file: cores and parts as int32, and the numbers."""
WINDOWS_SHARE = 0.5
"""Share of the allowed memory that the windows of one call may take, if they are several."""


class PartOfCase(NamedTuple):
    """A part of a case that is predicted by itself.

    Attributes:
        case: The case.
        place: Where it lies.
    """

    case: ChunkedCase
    place: Part


class Predictor:
    """Models of one plan that predict together: the mean of their probabilities.

    Memory for one case, beside the windows of one call of the networks: per voxel of the network's grid ``4 *
    channels`` bytes for the image and at most ``2 * outputs`` for the sums of probabilities (:func:`predict_slabs`),
    far less for volumes of many patches; per voxel of the file one byte for the label map (two above label value 255),
    and one for an entropy map. Preparing the image needs the file's stored values (two bytes for CT) beside it.
    ``bench/memory.py`` measures both.

    Example:
        >>> predictor = Predictor.load([Path("runs/3d-resnet18-finetune-1a2b3c4d/fold_0/model.safetensors")])
        >>> labels = predictor.array(volume, spacing=(1.0, 1.0, 3.0))  # (x, y, z)

    Args:
        plan: The models' plan.
        networks: At least one; each maps ``(batch, channel, slice, u, v)`` on ``device`` to logits.
        device: Device of the networks.

    Attributes:
        postprocessing: Components to remove from label maps; none by default.
        memory: Most bytes that a case may need; None: all that are free.
    """

    def __init__(self, plan: Plan, networks: Sequence[NetworkFn], device: torch.device) -> None:
        self.plan, self.networks, self.device = plan, networks, device
        self.postprocessing = NOTHING
        self.memory: int | None = None

    @classmethod
    def load(cls, files: Sequence[Path], device: str | torch.device = "cpu") -> Predictor:
        """Load trained models.

        Args:
            files: ``model.safetensors`` of one run, or of several folds of one plan.
            device: Device of the networks.

        Raises:
            UserError: If a file is no model of segtl, or the plans differ in data or network.
        """
        plans = [Plan.from_content(load_header(path, "model")["plan"], where=path) for path in files]
        for path, plan in zip(files, plans, strict=True):
            if _network_hash(plan) != _network_hash(plans[0]):
                what = f"was trained on another plan than {files[0]}"
                raise UserError(what, where=path, hint="predict with folds of one plan")
        device = torch.device(device)
        return cls(
            plans[0],
            [ready_network(load_state(path, "model")[0], plans[0], device, where=path) for path in files],
            device,
        )

    @property
    def data(self) -> DataPlan:
        """The data part of the plan."""
        return self.plan.data

    def limit_memory(self, most: int) -> None:
        """Set :attr:`memory`, and check that the network's windows do not need more.

        Raises:
            UserError: If they do.
        """
        self.memory = most
        device = self.device.type == "cuda"
        free = torch.cuda.mem_get_info(self.device)[0] if device else self.allowed_bytes()
        if (needed := self.window_bytes(free)) > free:
            patch = " x ".join(map(str, self.plan.model.patch))
            what = f"the model needs about {bytes_text(needed)} for one patch, of {patch} voxels"
            raise self.too_large(what, free, "use another model, or allow more memory with --memory")

    def array(
        self,
        array: NDArray,
        spacing: Sequence[float] | None = None,
        *,
        tta: bool = True,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Any:
        """Predict an array in memory.

        Args:
            array: ``(channel, x, y, z)`` or ``(x, y, z)`` in RAS order; of a model of 2D images also ``(row, column)``
                or ``(row, column, channel)``.
            spacing: Voxel size ``(x, y, z)`` in mm. Not needed for 2D images.
            tta: Average over the plan's mirrorings.
            probabilities: Whether to return probabilities too.
            uncertainty: Whether to return an entropy map and the confidence too.

        Returns:
            As of :meth:`Segmentation.result`, with maps ``(x, y, z)`` or ``(row, column)``.

        Raises:
            UserError: If the array or its spacing does not fit the model.
        """
        data = self.plan.data
        array = np.asanyarray(array)
        flat = data.unit == "pixel" and data.dimension == 2
        of_pixels = flat and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] != 1))
        if spacing is None and data.unit == "mm":
            raise UserError("an array of voxels needs its spacing", where="spacing", hint="give (x, y, z) in mm")
        sizes = (1, 1, 1) if spacing is None else spacing
        image = image_from_pixels(array) if of_pixels else image_from_array(array, sizes, data.unit)
        options = {"tta": tta, "probabilities": probabilities, "uncertainty": uncertainty}
        made = self.segment(image, **options, oriented=False)
        return (made.of_maps(lambda found: np.swapaxes(found[..., 0], -1, -2)) if of_pixels else made).result()

    def segment(
        self,
        image: Image,
        *,
        tta: bool = True,
        probabilities: bool = False,
        uncertainty: bool = False,
        oriented: bool = True,
    ) -> Segmentation:
        """Predict an image in memory; in what it or its label map is unlike the training images is logged.

        Args:
            image: The image.
            tta: Average over the plan's mirrorings.
            probabilities: Whether probabilities are asked for.
            uncertainty: Whether an entropy map and the confidence are asked for.
            oriented: Whether the image has an orientation.

        Raises:
            UserError: If the image does not fit the model.
        """
        transform, prepared = self.prepare(image, uncertainty=uncertainty)
        shown = "image" if oriented else "array"
        for warning in self.unlike_training(image, oriented=oriented):
            logger.warning(f"the {shown} is unlike the training images: {warning}")
        sure = Uncertainty(transform, self.plan.data) if uncertainty else None
        native = None
        if probabilities:
            predicted = self.probabilities(prepared, tta=tta)
            labels = self.labels_of(transform, predicted, sure)
            native = transform.restore_probabilities(predicted, self.plan.data)
        else:
            labels = self.labels(transform, prepared, tta=tta, uncertainty=sure)
        for warning in self.unlike_volumes(labels, transform):
            logger.warning(f"the {shown} is unlike the training images: {warning}")
        if sure is None:
            return Segmentation(labels, native)
        return Segmentation(labels, native, sure.entropy, sure.confidence)

    def prepare(self, image: Image, *, uncertainty: bool = False) -> tuple[CaseTransform, NDArray[np.float32]]:
        """The case's transform, and the networks' input ``(channel, slice, u, v)``.

        Args:
            image: The image.
            uncertainty: Whether there has to be memory for an entropy map as well.

        Raises:
            UserError: If the image does not fit the plan, or its resampled size does not fit into the allowed memory.
        """
        if self.plan.data.fill_nan:
            image = filled(image)
        transform = CaseTransform.fit(image, self.plan.data)
        self._check_memory(transform, maps=2 if uncertainty else 1)
        return transform, transform.image(image)

    def unlike_training(self, image: Image, *, oriented: bool = True) -> tuple[str, ...]:
        """In what an image that :meth:`prepare` accepts is far outside of the training images; empty if it is not.

        Models of earlier versions do not know their training images: nothing is compared.

        Args:
            image: The image.
            oriented: Whether its file has an orientation.
        """
        return unlike_plan(image, self.plan, oriented=oriented)

    def unlike_volumes(self, label_map: Integers, transform: CaseTransform) -> tuple[str, ...]:
        """Which predicted labels have a volume unlike those of the training cases.

        Args:
            label_map: The result of :meth:`labels`.
            transform: Of its image.
        """
        return unlike_volumes(label_map, transform.native, self.plan)

    def labels(
        self,
        transform: CaseTransform,
        array: NDArray[np.float32],
        *,
        tta: bool = True,
        uncertainty: Uncertainty | None = None,
    ) -> Integers:
        """The label map ``(i, j, k)`` in the file's axis order, with the data set's label values.

        Args:
            transform: The case's transform, of :meth:`prepare`.
            array: The networks' input, of :meth:`prepare`.
            tta: Average over the plan's mirrorings.
            uncertainty: Collects how sure the labels are.
        """
        axis = self.slab_axis(transform.shape)
        return self._label_map(transform, self.slabs(array, axis=axis, tta=tta), axis, uncertainty)

    def probabilities(self, array: NDArray[np.float32], *, tta: bool = True) -> NDArray[np.float32]:
        """Probabilities ``(output, slice, u, v)`` of a whole case on the networks' grid.

        Args:
            array: The networks' input, of :meth:`prepare`.
            tta: Average over the plan's mirrorings.
        """
        shape = array.shape[1:]
        outputs, allowed = len(self.plan.data.outputs), self.allowed_bytes()
        if (needed := 4 * outputs * math.prod(shape)) > allowed:
            what = f"its probabilities of {outputs} outputs need {bytes_text(needed)}"
            raise self.too_large(what, allowed, "predict without probabilities, or allow more memory with --memory")
        axis = self.slab_axis(shape)
        slabs = self.slabs(array, axis=axis, tta=tta)
        return join_slabs(slabs, len(self.plan.data.outputs), shape, axis=axis).numpy()

    def slab_axis(self, shape: Sequence[int]) -> int:
        """The axis of ``(slice, u, v)`` along which slabs of a volume need the least memory."""
        return longest_axis(shape, [self.plan.model])

    def slabs(
        self, array: NDArray[np.float32], *, axis: int, tta: bool = True, part: PartOfCase | None = None
    ) -> Iterator[Slab]:
        """Probabilities in slabs along an axis, as of :func:`predict_slabs`.

        Args:
            array: The networks' input, of :meth:`prepare`; of a part what its windows read.
            axis: Axis of ``(slice, u, v)``.
            tta: Average over the plan's mirrorings.
            part: The part of a case that is predicted; None for all.
        """
        plan = self.plan
        model, outputs = plan.model, len(plan.data.outputs)
        if part is None:
            extent = known_extent(array, plan)
        else:
            extent = part.case.extent if positions_hold(part.place.shape, plan) else None
        return predict_slabs(
            self._probabilities,
            self._to_device(array, self.sums_bytes(array.shape[1:], axis)),
            model,
            outputs,
            axis=axis,
            tta_axes=plan.recipe.tta_axes if tta else (),
            batch=self._windows_per_call(),
            extent=extent,
            part=None if part is None else part.place,
        )

    def windows_box(self, shape: Triple, box: Box) -> Box:
        """The box of ``(slice, u, v)`` that the windows of a box read."""
        return windows_box(shape, box, self.plan.model)

    @property
    def longest_window(self) -> Triple:
        """Size ``(slice, u, v)`` of the largest windows."""
        return self.plan.model.patch

    def labels_of(
        self, transform: CaseTransform, probabilities: NDArray[np.float32], uncertainty: Uncertainty | None = None
    ) -> Integers:
        """The label map of :meth:`labels` from the result of :meth:`probabilities`."""
        return self._label_map(transform, [(0, torch.from_numpy(probabilities))], 0, uncertainty)

    def _check_memory(self, transform: CaseTransform, *, maps: int) -> None:
        """Refuse an image that is too large on the network's grid, before anything of it is allocated.

        Args:
            transform: The image's transform.
            maps: Maps of one byte per voxel of the file.
        """
        shape, allowed = transform.shape, self.allowed_bytes()
        needed = 4 * len(self.plan.data.channels) * math.prod(shape)
        maps += BYTES_OF_OBJECTS if self.plan.data.instances else 0
        needed += self.sums_bytes(shape, self.slab_axis(shape)) + maps * math.prod(transform.native_shape)
        if self.device.type != "cuda":
            needed += self.window_bytes(allowed - needed)
        if needed > allowed:
            grid = " x ".join(map(str, shape))
            what = f"resampled to the model's spacing it has {grid} voxels, which need {bytes_text(needed)}"
            hint = "cut the image down to the part that matters, or allow more memory with --memory"
            raise self.too_large(what, allowed, hint)

    def allowed_bytes(self) -> int:
        """Bytes that may be allocated."""
        free = free_memory()
        return free if self.memory is None else min(free, self.memory)

    def too_large(self, what: str, allowed: int, hint: str) -> UserError:
        limited = self.memory is not None and allowed == self.memory
        return UserError(f"{what}; {bytes_text(allowed)} are {'allowed' if limited else 'free'}", hint=hint)

    def window_bytes(self, allowed: int) -> int:
        """Memory of the network for one window, of which so much is allowed."""
        data = self.plan.data
        return window_bytes(self.plan.model, len(data.channels), len(data.outputs), allowed)

    def _windows_per_call(self) -> int:
        model = self.plan.model
        wished = max(self.plan.recipe.batch_size, VOXELS_PER_CALL // math.prod(written_shape(model)))
        allowed = int(WINDOWS_SHARE * self.allowed_bytes())
        most = min(MOST_VOXELS_PER_CALL // math.prod(model.patch), allowed // self.window_bytes(allowed))
        return max(1, min(wished, most))

    def sums_bytes(self, shape: Sequence[int], axis: int) -> int:
        """Memory of the sums of probabilities of the slices that windows span."""
        held = min(shape[axis], 2 * written_shape(self.plan.model)[axis])
        return 4 * len(self.plan.data.outputs) * held * (math.prod(shape) // shape[axis])

    def _label_map(
        self, transform: CaseTransform, slabs: Iterable[Slab], axis: int, uncertainty: Uncertainty | None
    ) -> Integers:
        data = self.plan.data
        table = label_values(data)
        native, cropped = transform.blank_labels(table.dtype)
        fill_labels(
            cropped,
            slabs,
            transform.shape,
            transform.label_orders,
            lambda probabilities: table[decide(probabilities, data)],
            axis=axis,
            seen=None if uncertainty is None else uncertainty.add,
        )
        return finish_labels(native, transform, data, self.postprocessing)

    def _to_device(self, array: NDArray[np.float32], needed: int) -> Tensor:
        """The volume, on the GPU if it and ``needed`` bytes take less than half of the free memory there."""
        volume = torch.from_numpy(array)
        if self.device.type == "cuda" and array.nbytes + needed < torch.cuda.mem_get_info(self.device)[0] / 2:
            volume = volume.to(self.device)
        return volume

    def _probabilities(self, windows: Tensor) -> Tensor:
        """Mean probabilities of all networks."""
        windows = windows.to(self.device, non_blocking=True)
        reduced = self.plan.recipe.precision == "bfloat16"
        total = None
        for network in self.networks:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced):
                logits = network(windows)
            probabilities = activate(logits.float(), self.plan.data)
            del logits
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None, "a predictor has at least one network"
        return total.div_(len(self.networks))


def _network_hash(plan: Plan) -> str:
    """Hash of data and network without the source of weights, in which the folds of a race may differ."""
    return part_hash(plan.data, plan.model.model_copy(update={"weights": Weights(source="none")}))
