"""A network and its plan from an ONNX file; label maps of whole images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.image import Image, filled
from seg_transfer.errors import UserError, cause_of
from seg_transfer.inference.classes import decide, label_values
from seg_transfer.inference.known_extent import known_extent
from seg_transfer.inference.postprocess import finish_labels
from seg_transfer.inference.windows import longest_axis
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.model_file import ModelHeader
from seg_transfer.planning.unlike_training import unlike_plan
from seg_transfer.planning.unlike_volumes import unlike_volumes
from seg_transfer.portable.label_map import fill_labels
from seg_transfer.portable.sliding_window import Floats, predict_slabs
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.extent import position_maps
from seg_transfer.util.records import HEADER_KEY

HINT = "give a file that `segtl export --onnx` wrote"
LONGEST_CAUSE = 200
"""Characters shown of the message of ONNX Runtime, which quotes the file."""


class OnnxModel:
    """The network of an ONNX file with its plan.

    Args:
        path: The file.
        threads: Threads of the network; 0: one per core.

    Attributes:
        header: Plan, folds and postprocessing.

    Raises:
        UserError: If the file is missing or damaged, was not written by segtl, or its network does not fit its plan.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        if not path.is_file():
            raise UserError("there is no ONNX file here", where=path, hint=HINT)
        try:
            import onnxruntime
        except ImportError as error:  # no extra, which would install torch
            what = f"reading ONNX needs the package onnxruntime: {cause_of(error)}"
            raise UserError(what, where=path, hint="install it: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no base of their own
            cause = cause_of(error, LONGEST_CAUSE)
            raise UserError(f"no ONNX file, or damaged: {cause}", where=path, hint=HINT) from None
        text = self._session.get_modelmeta().custom_metadata_map.get(HEADER_KEY)
        if text is None:
            raise UserError("no ONNX file of segtl: it holds no plan", where=path, hint=HINT)
        self.header = ModelHeader.from_json(text, where=path)
        self._check_shapes(path)

    @property
    def data(self) -> DataPlan:
        """Data part of the plan."""
        return self.header.plan.data

    def labels(self, image: Image) -> tuple[NDArray[np.integer], CaseTransform]:
        """The label map ``(i, j, k)`` of an image in the file's own axis order, and the image's transform.

        Raises:
            UserError: If the image does not fit the plan.
        """
        plan, data = self.header.plan, self.data
        if data.fill_nan:
            image = filled(image)
        transform = CaseTransform.fit(image, data)
        array = transform.image(image)
        axis = longest_axis(transform.shape, [plan.model])
        slabs = predict_slabs(
            self._probabilities,
            array,
            plan.model,
            len(data.outputs),
            axis=axis,
            tta_axes=plan.recipe.tta_axes,
            extent=known_extent(array, plan),
        )
        table = label_values(data)
        native, cropped = transform.blank_labels(table.dtype)

        def values(probabilities: NDArray[Any]) -> NDArray[Any]:
            return table[decide(probabilities, data)]

        fill_labels(cropped, slabs, transform.shape, transform.label_orders, values, axis=axis)
        return finish_labels(native, transform, data, self.header.postprocessing), transform

    def unlike_training(self, image: Image) -> tuple[str, ...]:
        """In what an image of a file is far outside of the training images."""
        return unlike_plan(image, self.header.plan)

    def unlike_volumes(self, label_map: NDArray[np.integer], transform: CaseTransform) -> tuple[str, ...]:
        """Which labels of :meth:`labels` have a volume unlike those of the training cases."""
        return unlike_volumes(label_map, transform.native, self.header.plan)

    def _probabilities(self, windows: Floats) -> Floats:
        (probabilities,) = self._session.run(None, {"image": windows})
        return np.asarray(probabilities)

    def _check_shapes(self, path: Path) -> None:
        model = self.header.plan.model
        expected = [["image", [len(self.data.channels) + position_maps(model), *model.patch]]]
        found = [[given.name, given.shape[1:]] for given in self._session.get_inputs()]
        outputs = [given.shape[1] for given in self._session.get_outputs()]
        if len(self.header.members) > 1 or found != expected or outputs != [len(self.data.outputs)]:
            what = f"its network does not fit its plan: it reads {json.dumps(found)} and returns {outputs}"
            raise UserError(what, where=path, hint="export it again")
