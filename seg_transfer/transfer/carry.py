"""Starts a network from an earlier model of the user's own: its encoder, or encoder and decoder; heads start anew."""

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
from seg_transfer.transfer.inflate import Inflation, inflate_weight
from seg_transfer.transfer.weights import LoadReport, adapt_input
from seg_transfer.util.files import file_digest

ENCODER, HEADS, RAW = "encoder.", "heads.", "raw.0.weight"
FOLD = 0
"""Of several folds the first is taken: the mean of their weights is no network that was trained."""


class Network(Protocol):
    """What of the U-Net carrying over needs."""

    encoder: Encoder

    @property
    def block(self) -> tuple[int, ...]:
        """Stride (slice, u, v) of stage 0; (u, v) in 2D and 2.5D."""

    def state_dict(self) -> dict[str, Tensor]:
        """As in torch."""


class CarryReport(LoadReport):
    """What became of the tensors that were to be carried over, under their names in the network."""

    def __str__(self) -> str:
        whole = any(not name.startswith(ENCODER) for name in self.matched)
        return (
            super()
            .__str__()
            .replace(
                "the encoder's stages in use are pretrained",
                f"the {'network' if whole else 'encoder'} is carried over from an earlier model",
            )
        )


def carry_over(network: Network, model: ModelPlan) -> CarryReport:
    """Load what ``model.weights`` names into a network.

    The first convolution, and the decoder's on the raw input, are adapted to other channels as ImageNet's are
    (:func:`adapt_input`); 2D kernels are inflated to 3D; 3D kernels are summed along the slices where the new stage has
    none. Half precision does not occur in model files.

    Args:
        network: The new network, of random weights.
        model: Its plan; ``weights.source`` is ``model``.

    Raises:
        UserError: If the file is gone, has changed since planning, or its tensors do not fit.
    """
    weights = model.weights
    path = Path(str(weights.path))
    found = read_model_file(path)
    if file_digest(path) != weights.sha256:
        hint = "plan again with --from, or put the former file back"
        raise UserError("this is not the file that was planned with: its content has changed", where=path, hint=hint)
    member = choose_member([each.plan.model.configuration for each in found.header.members], model.configuration)
    start = prefix(member, FOLD)
    report = CarryReport()
    first = ENCODER + network.encoder.first_convolution()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        there = set(found.of_fold(member, FOLD))
        for name, target in network.state_dict().items():
            if not target.is_floating_point() or (weights.carry == "encoder" and not name.startswith(ENCODER)):
                continue
            if name.startswith(HEADS):
                report.random[name] = target.numel()
                continue
            if name not in there:
                raise _unfit(path, name, "absent")
            source = file.get_tensor(start + name)
            fitted = source
            if name == first:
                fitted = adapt_input(source, target.shape[1])
            elif name == RAW:
                fitted = _adapt_raw(source, target.shape[1], math.prod(network.block))
            fitted = _fit_depth(fitted, target, network.encoder.inflation)
            if fitted.shape != target.shape:
                raise _unfit(path, name, " x ".join(map(str, source.shape)))
            target.copy_(fitted)
            (report.matched if fitted is source else report.adapted)[name] = target.numel()
    used = report.matched.keys() | report.adapted.keys()
    sizes = found.of_fold(member, FOLD).items()
    report.unused.update({name: math.prod(shape) for name, shape in sizes if name not in used and shape})
    return report


def _adapt_raw(weight: Tensor, inputs: int, block: int) -> Tensor:
    """Adapt a kernel that reads blocks of voxels in channels, channel by channel, to other channels."""
    adapted = adapt_input(weight.unflatten(1, (-1, block)), inputs // block)
    return weight if adapted.shape[1] * block == weight.shape[1] else adapted.flatten(1, 2)


def _fit_depth(weight: Tensor, target: Tensor, inflation: Inflation) -> Tensor:
    if weight.ndim == 4 and target.ndim == 5:
        return inflate_weight(weight, target.shape[2], inflation)
    if weight.ndim == 5 and target.ndim == 4:
        return weight.sum(2)
    return weight


def _unfit(path: Path, name: str, there: str) -> UserError:
    hint = "plan again with --from, with this version of segtl"
    return UserError(f"does not fit the planned network: {name} is {there}", where=path, hint=hint)
