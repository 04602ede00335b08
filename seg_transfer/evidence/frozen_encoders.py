"""Frozen encoders to measure: the plan's, further ones, and those with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.network.build import build_encoder
from seg_transfer.planning.plan import ModelPlan, Plan, Weights
from seg_transfer.planning.rules.patch import slice_strides
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.batches import PatchSampler
from seg_transfer.transfer.describe import describe
from seg_transfer.transfer.unfreezing import recalibrate_batchnorm

DECODER_CHANNELS = 4
"""A plan needs them; no decoder is built."""
RECALIBRATION_BATCHES = 8
LARGEST_BATCH = 16
"""Fewer than training takes, since several encoders are recalibrated for one probe."""


def probed_model(
    plan: Plan, *, encoder: str | None = None, weights: Weights | None = None, stages: int | None = None
) -> ModelPlan:
    """The model part of a plan for an encoder to measure, by default with every stage of it.

    Stages that the plan does not use get the slice strides of the planning rule. A model that segtl trained earlier has
    the stages that it was trained with.

    Args:
        plan: The plan.
        encoder: Name of the encoder; the plan's by default.
        weights: Weights of ``encoder``; the plan's by default.
        stages: Number of stages, from the finest.
    """
    name, source = encoder or plan.model.encoder, weights or plan.model.weights
    strides = describe(name).strides
    if stages is None:
        stages = plan.model.stages if source.source == "model" else len(strides)
    along: tuple[Literal[1, 2], ...] = ()
    if plan.model.configuration == "3d":
        planned = plan.model.slice_strides if name == plan.model.encoder else ()
        along = (*planned, *slice_strides(plan.data.spacing, plan.model.patch[0], strides)[0][len(planned) :])[:stages]
    return ModelPlan(
        configuration=plan.model.configuration,
        patch=plan.model.patch,
        encoder=name,
        weights=source.model_copy(update={"carry": "encoder", "heads": False}) if source.source == "model" else source,
        stages=stages,
        slice_strides=along,
        inflation=plan.model.inflation,
        input_mapping=plan.model.input_mapping,
        decoder_channels=(DECODER_CHANNELS,) * stages,
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
    """Build a frozen encoder with its weights.

    Args:
        plan: The plan, for channels and precision.
        model: The result of :func:`probed_model`.
        seed: Random seed of random weights.
        device: Device to compute on.
        recalibrate: Batches ``(batch, channel, slice, u, v)`` from which BatchNorm statistics are estimated again; if
            empty, they stay as loaded.
        context: See :class:`FrozenEncoder`.

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
    """Training patches for BatchNorm statistics, in batches ``(batch, channel, slice, u, v)``.

    Args:
        plan: The plan, for the patch and the foreground share.
        store: The preprocessed cases.
        cases: Identifiers of the cases.
        seed: Random seed of the patches.
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
