"""What the loss asks of each encoder stage, once the decoder has learned a little on the frozen encoder.

At the very start the decoder is random, and gradients through it say nothing about the encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from seg_transfer.errors import UserError
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import Batch, PatchSampler
from seg_transfer.training.loop import RECALIBRATION_BATCHES, SHARE_OF_FREE_MEMORY
from seg_transfer.training.trainer import Trainer
from seg_transfer.transfer.unfreezing import StrategySchedule

STEPS = 50
BATCHES = 8
"""In each half of the cases, on which gradients are taken."""


@dataclass(frozen=True)
class Gradients:
    """What was measured; one entry per stage, finest first.

    Attributes:
        steps: Of the decoder alone before gradients were taken.
        batches: In each half of the cases.
        loss: Mean over the batches of both halves.
        relative_norm: 2-norm of the mean gradient over that of the parameters, of all that would learn together; large:
            the stage wants to change (arXiv 2210.11466).
        agreement: Cosine between the gradients of two halves of the cases; near 0: what a stage would learn from some
            cases is of no use to the others.
    """

    steps: int
    batches: int
    loss: float
    relative_norm: tuple[float, ...]
    agreement: tuple[float, ...]


def measure_gradients(
    plan: Plan,
    store: Store,
    cases: Sequence[str],
    *,
    seed: int,
    device: str,
    steps: int = STEPS,
    batches: int = BATCHES,
) -> Gradients:
    """Train the decoder alone for some steps, then take the gradient of the loss on each half of the cases.

    BatchNorm of the encoder does as the plan says, except that ``trained`` counts as ``recalibrated``: a frozen encoder
    cannot train it. It stays fixed while gradients are taken, and its own parameters are left out, as in training with
    fixed BatchNorm. Patches are drawn as in training; those that gradients are taken on are not augmented.

    Args:
        plan: What would be trained; its strategy and budget do not count.
        store: The preprocessed cases.
        cases: Those to measure on, at least two.
        seed: Of random weights, patches and halves.
        device: As for :class:`Trainer`.
        steps: Of the decoder alone.
        batches: In each half.

    Raises:
        UserError: If there is only one case, or the encoder's weights cannot be loaded.
    """
    if len(cases) < 2:
        raise UserError(
            "gradients are compared between two halves of the cases, and there is only one case",
            where=cases[0],
            hint="annotate another case, or do without this evidence",
        )
    trainer = Trainer(_decoder_only(plan), seed=seed, device=device, load=True)
    halves = [_sampler(plan, store, half, seed) for half in split_cases(cases, seed)]
    if trainer.plan.recipe.strategy.batchnorm == "recalibrated":
        trainer.recalibrate(halves[step % 2].batch(step, "recalibrate").image for step in range(RECALIBRATION_BATCHES))
    for step in range(steps):
        trainer.step(halves[step % 2].batch(step), step, step / steps)
    drawn = [[half.batch(step, "validate") for step in range(batches)] for half in halves]
    loss, norms, cosines = stage_gradients(trainer, drawn[0], drawn[1])
    return Gradients(steps=steps, batches=batches, loss=loss, relative_norm=norms, agreement=cosines)


def split_cases(cases: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Two halves, at random; the first is the larger one where the number is odd."""
    order = [cases[index] for index in np.random.default_rng(seed).permutation(len(cases))]
    return order[::2], order[1::2]


def stage_gradients(
    trainer: Trainer, one: Sequence[Batch], other: Sequence[Batch]
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Loss, relative gradient norm of each stage, and cosine between two sets of batches, finest stage first.

    The relative gradient norm is that of "Surgical fine-tuning" (Lee et al., arXiv 2210.11466): the 2-norm of the
    gradient over that of the parameters. There it is taken of each tensor; here of all of a stage's together, since a
    strategy treats a stage as one. A stage all of whose gradients vanish agrees with nothing: its cosine is 0.

    Args:
        trainer: Its network's encoder is set to learn, without its BatchNorms.
        one: Batches of the first half of the cases.
        other: Batches of the second half.
    """
    count = len(trainer.network.encoder.stage_modules())
    everything = trainer.plan.recipe.strategy.model_copy(
        update={"start": (0.0,) * count, "rate": (1.0,) * count, "batchnorm": "source"}
    )
    schedule = StrategySchedule(trainer.network, everything, warmup=0)
    schedule.apply(progress=0)
    trainer.network.eval()
    stages = [[p for p in stage.parameters() if p.requires_grad] for stage in schedule.stages]
    first_loss, first = _mean_gradients(trainer, one, stages)
    second_loss, second = _mean_gradients(trainer, other, stages)
    norms, cosines = [], []
    for parameters, mine, theirs in zip(stages, first, second, strict=True):
        size = torch.cat([p.detach().flatten() for p in parameters]).double().norm()
        norms.append(float(((mine + theirs) / 2).norm() / size))
        product = mine.norm() * theirs.norm()
        cosines.append(float(mine @ theirs / product) if product else 0.0)
    return (first_loss + second_loss) / 2, tuple(norms), tuple(cosines)


def _mean_gradients(
    trainer: Trainer, batches: Iterable[Batch], stages: Sequence[Sequence[Tensor]]
) -> tuple[float, list[Tensor]]:
    """Mean loss, and its gradient by all parameters of each stage as one vector."""
    losses = []
    sums = [torch.zeros(sum(p.numel() for p in stage), dtype=torch.float64) for stage in stages]
    for batch in batches:
        loss = trainer.loss(batch.image.to(trainer.device), batch.label.to(trainer.device))
        losses.append(loss.item())
        gradients = iter(torch.autograd.grad(loss, [p for stage in stages for p in stage]))
        for total, stage in zip(sums, stages, strict=True):
            total += torch.cat([next(gradients).flatten() for _ in stage]).double().cpu()
    return sum(losses) / len(losses), [total / len(losses) for total in sums]


def _decoder_only(plan: Plan) -> Plan:
    source, stages = plan.recipe.strategy.batchnorm == "source", plan.model.stages
    strategy = plan.recipe.strategy.model_copy(
        update={
            "start": (None,) * stages,
            "rate": (0.0,) * stages,
            "batchnorm": "source" if source else "recalibrated",
        }
    )
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"strategy": strategy})})


def _sampler(plan: Plan, store: Store, cases: Sequence[str], seed: int) -> PatchSampler:
    recipe = plan.recipe
    return PatchSampler(
        store,
        cases,
        plan.model,
        batch_size=recipe.batch_size,
        foreground_share=recipe.foreground_share,
        seed=seed,
        cache_bytes=int(SHARE_OF_FREE_MEMORY / 2 * psutil.virtual_memory().available),
    )
