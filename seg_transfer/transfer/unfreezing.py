"""Applies a strategy to a network while it trains: which encoder stages learn, how fast, and how BatchNorm behaves.

A frozen stage has no gradient, is in eval mode, keeps its BatchNorm statistics and has no weight decay; it is computed
with BatchNorm folded into its convolutions (:mod:`~seg_transfer.transfer.folding`). Autograd records nothing before the
first stage that learns.

BatchNorm of stages that learn follows ``Strategy.batchnorm``. ``source`` and ``recalibrated`` keep it frozen (eval
mode, scale and shift without gradient, as in He et al., "Mask R-CNN", 2017), so that small batches do not disturb it.
``trained`` normalises with the batch's statistics, which stages that start from random weights need.

The first convolution is frozen with its stage, also where it was adapted to other channels: a gradient there would make
autograd record every stage above it. Recalibrated statistics absorb the change of scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seg_transfer.planning.strategy import Strategy
from seg_transfer.transfer.encoder import Encoder

StageState = Literal["frozen", "warming", "learning"]


class HasEncoder(Protocol):
    """A network with an encoder; everything else in it counts as decoder."""

    encoder: Encoder

    def named_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """As in torch."""


class StrategySchedule:
    """Applies a strategy to one network by progress, the share of the budget used, from 0 to 1.

    Example:
        >>> schedule = StrategySchedule(network, plan.recipe.strategy, warmup=plan.recipe.warmup)
        >>> optimizer = torch.optim.AdamW(schedule.parameter_groups(lr=1e-3, weight_decay=1e-2))
        >>> network.train()
        >>> schedule.apply(progress=0.3)

    Args:
        network: The network that learns.
        strategy: The plan's strategy.
        warmup: Share of the budget over which a stage's rate climbs once it is unfrozen.
    """

    def __init__(self, network: HasEncoder, strategy: Strategy, *, warmup: float) -> None:
        self.network, self.strategy, self.warmup = network, strategy, warmup
        self.stages = network.encoder.stages

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimizer, without parameters that never learn.

        Args:
            lr: Learning rate of the decoder.
            weight_decay: Weight decay of kernels; 0 for biases and norms (parameters of at most one dimension).

        Returns:
            Dictionaries with ``params``, ``name`` (``decoder`` or ``encoder.K``, plus ``.no_decay``), ``lr_scale``
            (rate over the decoder's), ``lr`` and ``weight_decay``.
        """
        encoder = {id(parameter) for stage in self.stages for parameter in stage.parameters()}
        members = {"decoder": [p for _, p in self.network.named_parameters() if id(p) not in encoder]}
        for index, (stage, start) in enumerate(zip(self.stages, self.strategy.start, strict=True)):
            fixed = (
                set() if self._trains_batchnorm else {id(p) for norm in _batchnorms(stage) for p in norm.parameters()}
            )
            members[f"encoder.{index}"] = [
                parameter for parameter in stage.parameters() if start is not None and id(parameter) not in fixed
            ]
        groups = []
        for (name, parameters), scale in zip(members.items(), (1.0, *self.strategy.rate), strict=True):
            for ending, decay, chosen in (
                ("", weight_decay, [p for p in parameters if p.ndim > 1]),
                (".no_decay", 0.0, [p for p in parameters if p.ndim <= 1]),
            ):
                if chosen:
                    group = {"params": chosen, "name": name + ending, "lr_scale": scale, "lr": lr * scale}
                    groups.append(group | {"weight_decay": decay})
        return groups

    def apply(self, progress: float) -> None:
        """Set gradients and training mode of every stage; call it after every ``network.train()``."""
        frozen = [index for index, state in self.describe(progress).items() if state == "frozen"]
        self.network.encoder.fold(frozen)
        for index, stage in enumerate(self.stages):
            learns = index not in frozen
            stage.train(learns)
            stage.requires_grad_(learns)
            for norm in _batchnorms(stage):
                norm.train(learns and self._trains_batchnorm)
                norm.requires_grad_(learns and self._trains_batchnorm)

    def lr_scales(self, progress: float) -> dict[str, float]:
        """Rates over the decoder's of ``decoder`` and each ``encoder.K``: 0 while frozen, a ramp after unfreezing."""
        stages = enumerate(zip(self.strategy.rate, self.strategy.start, strict=True))
        return {"decoder": 1.0} | {f"encoder.{k}": rate * self._ramp(start, progress) for k, (rate, start) in stages}

    def describe(self, progress: float) -> dict[int, StageState]:
        """Stage (0 the finest) -> its state at this progress."""
        return {stage: self._state(start, progress) for stage, start in enumerate(self.strategy.start)}

    @property
    def _trains_batchnorm(self) -> bool:
        return self.strategy.batchnorm == "trained"

    def _state(self, start: float | None, progress: float) -> StageState:
        if start is None or progress < start:
            return "frozen"
        return "warming" if progress < start + self.warmup else "learning"

    def _ramp(self, start: float | None, progress: float) -> float:
        if start is None or progress < start:
            return 0.0
        if start == 0 or self.warmup == 0:
            return 1.0  # from the start the learning rate has a warm-up of its own
        return min(1.0, (progress - start) / self.warmup)


def recalibrate_batchnorm(network: nn.Module, encoder: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate the running statistics of every BatchNorm in the encoder, in place.

    Inflation by averaging is a low-pass along the slice axis, so variances fall below the source's stored ones, and the
    error grows from stage to stage. Statistics are pooled over batches by the law of total variance (mean of the
    variances plus variance of the means): the mean of variances alone would be too small, since patches of one small
    batch are alike.

    Args:
        network: The network that reads the batches; in eval mode afterwards.
        encoder: The part of the network with the BatchNorms.
        batches: At least one batch of images ``(batch, channel, slice, u, v)``.
    """
    norms = list(_batchnorms(encoder))
    momenta = [norm.momentum for norm in norms]
    sums = [torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms]
    network.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # running statistics are those of the latest batch
    count = 0
    for images in batches:
        with torch.no_grad():
            network(images)
        count += 1
        for total, norm in zip(sums, norms, strict=True):
            mean, variance = (statistic.double().cpu() for statistic in _statistics(norm))
            total += torch.stack([mean, mean.square(), variance])
    for total, norm, momentum in zip(sums, norms, momenta, strict=True):
        mean, square, variance = total / count
        running_mean, running_var = _statistics(norm)
        running_mean.copy_(mean)
        running_var.copy_(variance + (square - mean.square()).clamp(min=0))
        norm.momentum = momentum
    network.eval()


def _batchnorms(module: nn.Module) -> Iterable[_BatchNorm]:
    return (child for child in module.modules() if isinstance(child, _BatchNorm))


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var
