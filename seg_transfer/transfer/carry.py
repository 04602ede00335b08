"""Starts a network from an earlier segtl model: its encoder, or encoder and decoder, with its heads if these fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.planning.model_file import prefix, read_model_file
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.rules.earlier_model import choose_member
from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import fit_depth
from seg_transfer.transfer.weights import LoadReport, adapt_input
from seg_transfer.util.files import file_digest

ENCODER, HEADS, RAW = "encoder.", "heads.", "raw.0.weight"
FOLD = 0
"""The fold whose weights are taken; the mean over folds would be a network that was never trained."""


class Network(Protocol):
    """The parts of a network that :func:`carry_over` uses."""

    encoder: Encoder

    @property
    def block(self) -> tuple[int, ...]:
        """Stride (slice, u, v) of stage 0; (u, v) in 2D and 2.5D."""

    def state_dict(self) -> dict[str, Tensor]:
        """As in torch."""


def carry_over(network: Network, model: ModelPlan) -> LoadReport:
    """Load the model file of ``model.weights`` into a network, in place.

    The first convolution, and the decoder's on the raw input, are adapted to other channels by :func:`adapt_input`,
    slice by slice where both are 2.5D. 2D kernels are inflated to 3D; 3D kernels are summed along the slice axis where
    the new stage is 2D.

    Args:
        network: The new network, with random weights.
        model: Its plan; ``weights.source`` is ``model``.

    Raises:
        UserError: If the file is missing, has changed since planning, or its tensors do not fit.
    """
    weights = model.weights
    path = Path(str(weights.path))
    file = read_model_file(path)
    if file_digest(path) != weights.sha256:
        hint = "plan again with --from, or restore the file"
        raise UserError("this file has changed since planning", where=path, hint=hint)
    member = choose_member([each.plan.model.configuration for each in file.header.members], model.configuration)
    start, shapes = prefix(member, FOLD), file.of_fold(member, FOLD)
    earlier = file.header.members[member].plan.model
    slices = earlier.patch[0] if earlier.configuration == "2.5d" else 1
    subject = "network" if weights.carry == "all" else "encoder"
    report = LoadReport(outcome=f"the {subject} is carried over from an earlier model")
    blocks = math.prod(network.block)
    image = {ENCODER + name for name in network.encoder.image_weights()}
    with safe_open(path, framework="pt") as tensors, torch.no_grad():
        for name, target in network.state_dict().items():
            if not target.is_floating_point() or (weights.carry == "encoder" and not name.startswith(ENCODER)):
                continue
            if name.startswith(HEADS) and not weights.heads:
                report.random[name] = target.numel()
                continue
            if name not in shapes:
                raise _unfit(path, name, "missing")
            fitted = source = tensors.get_tensor(start + name)
            dimensions = (4, 5) if target.ndim in (4, 5) else (target.ndim,)
            reads_image, block = name == RAW or name in image, blocks if name == RAW else 1
            fits = source.ndim in dimensions and source.numel()
            if not fits or (reads_image and source.shape[1] % (slices * block)):
                raise _unfit(path, name, " x ".join(map(str, source.shape)))
            if reads_image and (source.shape[1], slices) != (target.shape[1], network.encoder.slices):
                stacks = source.unflatten(1, (-1, slices, block))
                fitted = _adapt_stacks(stacks, target.shape[1], network.encoder.slices).flatten(1, 3)
            if fitted.ndim == 5 and target.ndim == 4:
                fitted = fitted.sum(2)
            fitted = fit_depth(fitted, target, network.encoder.inflation)
            if fitted.shape != target.shape:
                raise _unfit(path, name, " x ".join(map(str, source.shape)))
            target.copy_(fitted)
            (report.matched if fitted is source else report.adapted)[name] = target.numel()
    used = report.matched.keys() | report.adapted.keys()
    report.unused.update({name: math.prod(shape) for name, shape in shapes.items() if name not in used and shape})
    return report


def _adapt_stacks(weight: Tensor, inputs: int, slices: int) -> Tensor:
    """Adapt a kernel ``(out, channel, slice, block, ...)`` to ``inputs`` channels, slices and voxels of a block.

    Where stacks have as many slices as before, each slice keeps its filters; otherwise their sum is adapted.
    """
    before, block = weight.shape[2:4]
    channels = inputs // (slices * block)
    if before == slices:
        return adapt_input(weight, channels)
    adapted = adapt_input(weight.sum(2), channels)
    return adapt_input(adapted, channels * slices, slices=slices).unflatten(1, (channels, slices))


def _unfit(path: Path, name: str, shape: str) -> UserError:
    hint = "plan again with --from, with this version of segtl"
    return UserError(f"does not fit the planned network: {name} is {shape}", where=path, hint=hint)
