"""How far this data's features lie from those that the encoder's BatchNorm has stored: a guard against odd inputs.

Zeros around a map count for more the smaller it is, so that statistics differ with the size of the input alone. Slices
are therefore resized to the side at which the encoder was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.network.build import build_network
from seg_transfer.network.encoder_network import Reader
from seg_transfer.planning.plan import ModelPlan, Plan
from seg_transfer.preprocessing.store import Store, StoredCase

BUNDLED_SIDE = 64
"""Of the pictures that the bundled encoder was trained on, in pixels."""
INPUTS = 64
"""Network inputs measured in all."""


@dataclass(frozen=True)
class Distances:
    """What was measured.

    Attributes:
        side: To which slices were resized.
        slices: Network inputs measured: slices, stacks or blocks of slices.
        distance: Of each stage, finest first; None in stages without BatchNorm, or of random weights.
    """

    side: int
    slices: int
    distance: tuple[float | None, ...]


def measure_statistics(plan: Plan, store: Store, cases: Sequence[str], *, side: int, seed: int) -> Distances:
    """Compare the stored statistics of the plan's encoder with those on some cases.

    Stages of random weights have stored nothing to compare with.

    Args:
        plan: Which encoder, with which weights, reads what.
        store: The preprocessed cases.
        cases: Their identifiers.
        side: Side of the inputs at which the encoder was trained, in pixels.
        seed: Decides which slices are measured.
    """
    data = plan.data
    network, report = build_network(plan.model, channels=len(data.channels), classes=len(data.outputs), seed=seed)
    inputs = list(square_inputs([store.case(case) for case in cases], plan.model, side=side, seed=seed))
    untold = {int(name.split(".")[1]) for name in report.random if name.endswith("running_mean")}
    distances = statistics_distance(network, inputs)
    return Distances(
        side=side,
        slices=len(inputs),
        distance=tuple(None if stage in untold else distance for stage, distance in enumerate(distances)),
    )


def square_inputs(cases: Sequence[StoredCase], model: ModelPlan, *, side: int, seed: int) -> Iterator[Tensor]:
    """Network inputs ``(channel, slice, side, side)``: the largest square in the middle of a slice, resized.

    As many of each case, around slices with a label where there are any. 2.5D stacks and 3D blocks have the plan's
    number of slices, and repeat the first or last one beyond the border.
    """
    draw = np.random.default_rng(seed)
    per_case = -(-INPUTS // len(cases))
    slices = model.patch[0]
    for case in cases:
        for middle in draw.permutation(_slices_with_labels(case))[:per_case]:
            wanted = np.arange(middle - slices // 2, middle - slices // 2 + slices).clip(0, case.shape[0] - 1)
            yield _square(case.image[:, wanted.min() : wanted.max() + 1][:, wanted - wanted.min()], side)


def statistics_distance(network: Reader, inputs: Iterable[Tensor]) -> tuple[float | None, ...]:
    """Distance between stored and measured statistics, of each stage, finest first; None without BatchNorm.

    ``log(1 + J)``, averaged over the channels of all BatchNorms of a stage. ``J``, the symmetric Kullback-Leibler
    divergence between Gaussians with the stored and the measured mean and variance, has no upper bound, and a single
    channel that the source hardly ever excites would rule a plain mean.

    The network works as it would when frozen: each BatchNorm normalises with what it has stored, and the next one sees
    what comes of it.

    Args:
        network: Its encoder's weights and statistics are in place; left in eval mode.
        inputs: ``(channel, slice, u, v)`` as the network reads them, each of the same size.
    """
    network.eval()
    encoder = network.encoder
    norms = [[child for child in stage.modules() if isinstance(child, _BatchNorm)] for stage in encoder.stage_modules()]
    with torch.no_grad(), _recorded([norm for stage in norms for norm in stage]) as sums:
        for image in inputs:
            encoder(network.scaled(image.unsqueeze(0)))
    return tuple(
        torch.cat([_distances(norm, sums[norm]) for norm in stage]).mean().item() if stage else None for stage in norms
    )


def gaussian_divergence(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence ``KL(p, q) + KL(q, p)`` of one-dimensional Gaussians, elementwise."""
    square = (mean - other_mean).square()
    return ((variance + square) / other_variance + (other_variance + square) / variance) / 2 - 1


def _distances(norm: _BatchNorm, sums: Tensor) -> Tensor:
    """Of each channel; the variance has BatchNorm's own epsilon, without which a dead channel would be at infinity."""
    count, total, squares = sums
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    assert norm.running_mean is not None and norm.running_var is not None
    stored = norm.running_mean.double(), norm.running_var.double() + norm.eps
    return gaussian_divergence(*stored, mean, variance + norm.eps).log1p()


@contextmanager
def _recorded(norms: Sequence[_BatchNorm]) -> Iterator[dict[nn.Module, Tensor]]:
    """Count, sum and sum of squares ``(3, channel)`` of what each module reads meanwhile."""
    sums: dict[nn.Module, Tensor] = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def add(norm: nn.Module, read: tuple[Tensor]) -> None:
        values = read[0].double().transpose(0, 1).flatten(1)
        count = torch.full((len(values),), values.shape[1], dtype=torch.float64)
        sums[norm] += torch.stack([count, values.sum(1), values.square().sum(1)])

    handles = [norm.register_forward_pre_hook(add) for norm in norms]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _slices_with_labels(case: StoredCase) -> NDArray[np.int64]:
    """Slices that hold a label, or all of them."""
    labels = [places[:, 0] for of, places in case.locations.items() if of != "annotated"]
    return np.unique(np.concatenate(labels)) if labels else np.arange(case.shape[0])


def _square(block: NDArray[np.float32], side: int) -> Tensor:
    """The largest square in the middle of ``(channel, slice, u, v)``, resized to ``side``."""
    size = min(block.shape[2:])
    top, left = ((length - size) // 2 for length in block.shape[2:])
    square = torch.from_numpy(np.ascontiguousarray(block[..., top : top + size, left : left + size]))
    return functional.interpolate(square, size=(side, side), mode="bilinear", antialias=True)
