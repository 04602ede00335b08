"""Predicts with the folds of a trained model of nnU-Net."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seg_transfer.data.image import Image
from seg_transfer.errors import UserError
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.nnunet.case import NnunetCase, fit, grid_bytes, normalized
from seg_transfer.nnunet.checkpoint import HINT, read_checkpoint
from seg_transfer.nnunet.model_folder import NnunetModel
from seg_transfer.nnunet.network import build_network
from seg_transfer.nnunet.sliding_window import predict_logits
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.resample import Floats
from seg_transfer.util.units import bytes_text


class NnunetPredictor:
    """Folds of one model, whose logits are averaged.

    Args:
        model: The model.
        device: Device of the networks.
        memory: Most bytes that the arrays of a case may take.

    Raises:
        UserError: If a checkpoint cannot be read, is of another configuration, or its weights do not fit.
    """

    def __init__(self, model: NnunetModel, device: str, memory: int) -> None:
        self.model, self.device, self.memory = model, torch.device(device), memory
        checkpoints = [read_checkpoint(path) for path in model.checkpoints]
        configuration, dimensions = model.plans.configuration.name, len(model.plans.configuration.patch_size)
        for path, checkpoint in zip(model.checkpoints, checkpoints, strict=True):
            if checkpoint.configuration != configuration:
                what = f"trained as {checkpoint.configuration[:60]}, and its folder is named after {configuration}"
                raise UserError(what, where=path, hint=HINT)
            if any(axis >= dimensions for axis in checkpoint.mirror_axes):
                raise UserError(f"it mirrors axis {max(checkpoint.mirror_axes)} of {dimensions}", where=path, hint=HINT)
        self.mirror_axes = checkpoints[0].mirror_axes
        counts = {"channels": len(self.data.channels), "outputs": len(self.data.outputs)}
        self.networks: list[nn.Module] = [
            build_network(model.plans, checkpoint.weights, **counts, where=path).to(self.device)
            for path, checkpoint in zip(model.checkpoints, checkpoints, strict=True)
        ]

    @property
    def data(self) -> DataPlan:
        """The model's channels and labels."""
        return self.model.data

    def prepare(self, image: Image, *, uncertainty: bool = False) -> tuple[NnunetCase, Floats]:
        """The case on the model's grid, and the networks' input ``(channel, first, second, third)``.

        Raises:
            UserError: If the image has other channels than the model or values that are not finite, or is too large.
        """
        assert not uncertainty, "options refuse it"
        found, wanted = len(image.array), len(self.data.channels)
        if found != wanted:
            names = ", ".join(channel.name for channel in self.data.channels)
            raise UserError(f"the image has {found} channel(s), the model {wanted}: {names}", hint="give all of them")
        if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
            raise UserError("the image has values that are not finite", hint="replace them, for instance with 0")
        case, part, mask = fit(image, self.model.plans)
        if (needed := grid_bytes(case, wanted, len(self.data.outputs))) > self.memory:
            grid = " x ".join(map(str, case.shape))
            what = f"resampled to the model's spacing it has {grid} voxels, which need {bytes_text(needed)}"
            hint = "cut the image down to the part that matters, or allow more memory with --memory"
            raise UserError(f"{what}; {bytes_text(self.memory)} are allowed", hint=hint)
        return case, normalized(case, part, mask)

    def unlike_training(self, image: Image) -> tuple[str, ...]:
        """Nothing: nnU-Net's models do not tell what their training images were like."""
        return ()

    def unlike_volumes(self, label_map: NDArray[np.integer], transform: NnunetCase) -> tuple[str, ...]:
        """Nothing, as :meth:`unlike_training`."""
        return ()

    @torch.inference_mode()
    def probabilities(self, array: Floats, *, tta: bool = True) -> NDArray[np.float16]:
        """Mean logits on the model's grid; nnU-Net makes probabilities of them after resampling."""
        image = torch.from_numpy(array).to(self.device)
        axes = self.mirror_axes if tta else ()
        patch, outputs = self.model.plans.configuration.patch_size, len(self.data.outputs)
        total = predict_logits(self.networks[0], image, patch, outputs, axes)
        for network in self.networks[1:]:
            total += predict_logits(network, image, patch, outputs, axes)
        return (total.div_(len(self.networks)) if len(self.networks) > 1 else total).numpy()

    def labels(
        self, transform: NnunetCase, array: Floats, *, tta: bool = True, uncertainty: Uncertainty | None = None
    ) -> NDArray[Any]:
        """The label map ``(i, j, k)`` in the file's axis order."""
        return self.labels_of(transform, self.probabilities(array, tta=tta))

    def labels_of(
        self, transform: NnunetCase, probabilities: NDArray[Any], uncertainty: Uncertainty | None = None
    ) -> NDArray[Any]:
        """The label map of :meth:`labels` from the result of :meth:`probabilities`."""
        return transform.labels(probabilities, self.data)
