"""The frozen encoders that are looked at: all stages of the plan's own, of others, and of random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from seg_transfer.catalogue.encoders import entry
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.network.build import build_encoder
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.planning.rules.patch import slice_strides
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import PatchSampler
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm

UNUSED = 4
"""Channels of a decoder that is never built."""
RECALIBRATION_BATCHES = 8
LARGEST_BATCH = 16
"""Fewer than training takes, since several encoders are recalibrated for one probe."""


def probed_model(
    plan: Plan, *, encoder: str | None = None, weights: Weights | None = None, first: int | None = None
) -> ModelPlan:
    """A model whose encoder is probed; by default with every stage of an encoder, not only the plan's.

    Stages beyond the plan's stride along the slices as the planning rule would have it. A model of the user's own has
    the stages that it was trained with.

    Args:
        plan: What is probed.
        encoder: In place of the plan's.
        weights: In place of the plan's; belong with ``encoder``.
        first: Only so many, from the finest.
    """
    name, source = encoder or plan.model.encoder, weights or plan.model.weights
    known = entry(name)
    stages = first or (plan.model.stages if source.source == "model" else len(known.strides))
    along: tuple[Literal[1, 2], ...] = ()
    if plan.model.configuration == "3d":
        mine = plan.model.slice_strides if name == plan.model.encoder else ()
        along = (*mine, *slice_strides(plan.data.spacing, plan.model.patch[0], known.strides)[0][len(mine) :])[:stages]
    return ModelPlan(
        configuration=plan.model.configuration,
        patch=plan.model.patch,
        encoder=name,
        weights=source.model_copy(update={"carry": "encoder"}) if source.source == "model" else source,
        stages=stages,
        slice_strides=along,
        inflation=plan.model.inflation,
        input_mapping=plan.model.input_mapping,
        decoder_channels=(UNUSED,) * stages,
    )


def frozen_encoder(
    plan: Plan,
    model: ModelPlan,
    *,
    seed: int,
    device: str,
    recalibrate: Sequence[Tensor] = (),
    context: bool = False,
) -> FrozenEncoder:
    """Build an encoder with its weights, ready to be read.

    Args:
        plan: Channels and precision.
        model: Of :func:`probed_model`.
        seed: Of random weights.
        device: Where to compute.
        recalibrate: Images ``(batch, channel, slice, u, v)`` on which BatchNorm's statistics are re-estimated; none
            keeps the source's.
        context: Of :class:`FrozenEncoder`.

    Raises:
        UserError: If the weights cannot be loaded.
    """
    network = build_encoder(model, channels=len(plan.data.channels), seed=seed)
    reduced = plan.recipe.precision == "bfloat16"
    frozen = FrozenEncoder(network.to(device), model, reduced=reduced, context=context)
    if len(recalibrate):
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=frozen.reduced):
            recalibrate_batchnorm(frozen, frozen.encoder, recalibrate)
    return frozen


def recalibration_images(plan: Plan, store: Store, cases: Sequence[str], *, seed: int) -> Iterator[Tensor]:
    """Patches as training draws them, for BatchNorm's statistics.

    Args:
        plan: Patch, and the share of patches that are centred on a label.
        store: Where the cases are.
        cases: Their identifiers.
        seed: Decides which patches.
    """
    sampler = PatchSampler(
        store,
        cases,
        plan.model,
        batch_size=min(plan.recipe.batch_size, LARGEST_BATCH),
        foreground_share=plan.recipe.foreground_share,
        seed=seed,
        cache_bytes=0,
    )
    for step in range(RECALIBRATION_BATCHES):
        yield sampler.batch(step, "recalibrate").image
