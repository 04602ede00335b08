"""From measurements and wishes to a plan: calls the rules in order and keeps the reason of every decision.

Example:
    >>> plan = make_plan(Fingerprint.load(path), PlanRequest(splits=[(["a", "b"], ["c"])], device="cpu"))
    >>> plan.model.patch
    (40, 56, 40)
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from seg_transfer.catalogue.encoders import EncoderEntry, entry
from seg_transfer.planning.cost import Shape, parameters, step_flops, step_memory
from seg_transfer.planning.data_plan import Channel, DataPlan, Label
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.grid import Grid, in_network_order
from seg_transfer.planning.plan import Expected, ModelPlan, Plan, Weights
from seg_transfer.planning.reasons import Reasons
from seg_transfer.planning.recipe import plan_recipe
from seg_transfer.planning.request import AUTO, PlanRequest, Wishes, check
from seg_transfer.planning.rules import configuration as configuration_rule
from seg_transfer.planning.rules import earlier_model as carry_rule
from seg_transfer.planning.rules import encoder as encoder_rule
from seg_transfer.planning.rules import head as head_rule
from seg_transfer.planning.rules import labels as labels_rule
from seg_transfer.planning.rules import normalization
from seg_transfer.planning.rules import optimization as training
from seg_transfer.planning.rules import spacing as geometry
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.rules.patch import SMALLEST_BATCH, Limits, fit, most_stages, slice_strides, stack

__all__ = ["PlanRequest", "decides_by_evidence", "make_plan"]

STORED_BYTES = 3.5
"""Per voxel and channel of the preprocessed store: float32, compressed without loss."""
CHECKPOINT_BYTES = 20
"""Per parameter: the model, and to resume the weights, their average and the optimizer's two moments."""


def make_plan(fingerprint: Fingerprint, request: PlanRequest) -> Plan:
    """Decide everything about a data set.

    Args:
        fingerprint: Its measurements.
        request: The user's wishes.

    Raises:
        UserError: If a wish is impossible for this data set, or no network fits into the memory.
    """
    wishes = check(request, fingerprint)
    reasons = Reasons()
    data = _plan_data(fingerprint, wishes, reasons)
    grid = Grid(fingerprint, data)
    earlier = request.earlier
    if earlier is None:
        encoder = entry(reasons.take("model.encoder", encoder_rule.encoder(request.encoder)))
        weights = reasons.take("model.weights", encoder_rule.weights(encoder, wishes.weights, request.imagenet_cached))
        shape = _plan_shape(grid, data, encoder, weights.source == "bundled", request, wishes, reasons)
    else:
        encoder = entry(reasons.take("model.encoder", carry_rule.encoder(request.encoder, earlier)))
        shape = _plan_shape(grid, data, encoder, False, request, wishes, reasons)
        weights = reasons.take("model.weights", carry_rule.weights(shape, earlier, wishes.carry))
    model = _plan_model(shape, data, weights, wishes, reasons)
    recipe, weights = plan_recipe(fingerprint, grid, data, model, shape, request, wishes, reasons)
    if weights != model.weights:
        model = model.model_copy(update={"weights": weights})
        reasons.amend("model.weights", weights, f"{recipe.strategy.kind} takes {_taken(weights)}")
    seconds = wishes.machine.seconds(step_flops(shape, recipe.batch_size))
    spent = recipe.time_budget or (recipe.epochs or 0) * recipe.steps_per_epoch * seconds
    frozen = min(
        shape.stages if strategy.kind == "frozen" else strategy.frozen_stages
        for strategy in (candidate.strategy for candidate in recipe.candidates)
    )
    expected = Expected(
        training_seconds_per_fold=spent if model.head == "unet" else head_rule.SECONDS,
        seconds_per_step=seconds,
        memory_bytes=step_memory(replace(shape, frozen=frozen), recipe.batch_size),
        disk_bytes=int(
            grid.voxels * (STORED_BYTES * len(data.channels) + 0.1)
            + CHECKPOINT_BYTES * parameters(shape) * len(recipe.splits)
        ),
    )
    return Plan(
        data=data,
        model=model,
        recipe=recipe,
        evidence=request.evidence,
        reasons=tuple(reasons.taken),
        expected=expected,
    )


def decides_by_evidence(request: PlanRequest, made: Plan) -> bool:
    """Whether evidence can change the plan that was made without it."""
    return made.model.weights.source != "none" and made.model.head == "unet" and request.strategy == AUTO


def _taken(weights: Weights) -> str:
    return "none" if weights.source == "none" else f"those of the finest {weights.stages} stage(s)"


def _plan_data(fingerprint: Fingerprint, wishes: Wishes, reasons: Reasons) -> DataPlan:
    axes = reasons.take(
        "data.axes", geometry.axes(fingerprint.spacing, fingerprint.shape, dimension=fingerprint.dimension)
    )
    crop = reasons.take("data.crop_nonzero", geometry.crop_nonzero(fingerprint.crop_ratio))
    spacings = [(case.spacing[axes[0]], case.spacing[axes[1]], case.spacing[axes[2]]) for case in fingerprint.cases]
    slices, u, v = np.median(in_network_order(fingerprint, axes, cropped=crop), axis=0)
    spacing = reasons.take(
        "data.spacing",
        geometry.target_spacing(spacings, (slices, u, v), dimension=fingerprint.dimension, unit=fingerprint.unit),
    )
    ratio = 1.0 if fingerprint.dimension == 2 else geometry.anisotropy([fingerprint.spacing[axis] for axis in axes])
    scale = normalization.shared_scale(fingerprint.channels, dimension=fingerprint.dimension)
    channels = []
    for index, channel in enumerate(fingerprint.channels):
        chosen = reasons.take(
            f"data.channels.{index}.normalization",
            normalization.normalization(
                channel,
                dimension=fingerprint.dimension,
                crop_ratio=fingerprint.crop_ratio,
                scale=scale,
                requested=wishes.normalization.get(channel.name),
            ),
        )
        channels.append(Channel(name=channel.name, normalization=chosen))
    regions, ignore = fingerprint.regions, fingerprint.ignore
    if regions:
        reasons.take("data.regions", labels_rule.regions(regions))
    if ignore is not None:
        reasons.take("data.ignore", labels_rule.ignore(ignore, [case.annotated for case in fingerprint.cases]))
    return DataPlan(
        dataset=fingerprint.dataset,
        dimension=fingerprint.dimension,
        unit=fingerprint.unit,
        channels=tuple(channels),
        labels=(
            Label(name="background", value=0),
            *(Label(name=label.name, value=label.value) for label in fingerprint.labels),
        ),
        regions=regions,
        ignore=ignore,
        cases=tuple(case.id for case in fingerprint.cases),
        axes=axes,
        spacing=spacing,
        crop_nonzero=crop,
        image_order=reasons.take("data.image_order", geometry.IMAGE_ORDER),
        slice_order=reasons.take("data.slice_order", geometry.slice_order(ratio)),
    )


def _plan_shape(
    grid: Grid,
    data: DataPlan,
    encoder: EncoderEntry,
    bundled: bool,
    request: PlanRequest,
    wishes: Wishes,
    reasons: Reasons,
) -> Shape:
    """Decide configuration, stages and patch together, since each bounds the others."""
    earlier = request.earlier
    stages, why_stages = most_stages(grid.shape, encoder, bundled=bundled)
    if earlier is not None:
        stages, why_stages = carry_rule.stages((stages, why_stages), earlier)
    fitted = partial(fit, entry=encoder, stages=stages, channels=len(data.channels), classes=len(data.outputs))
    steps_3d = 0.0
    if data.dimension == 3 and wishes.config is None and earlier is None and encoder.volumes:
        # Memory limits this patch, time does not: whether time suffices is the question.
        whole = Limits(wishes.machine, request.memory_bytes, step_seconds=None)
        candidate, _ = fitted(grid.shape, data.spacing, configuration="3d", limits=whole)
        flops = step_flops(candidate, SMALLEST_BATCH["3d"])
        steps_3d = training.steps_in_time(wishes.machine.seconds(flops), request.time_budget)
    chosen = reasons.take(
        "model.configuration",
        carry_rule.configuration(wishes.config, earlier, data.dimension)
        if earlier is not None
        else configuration_rule.configuration(
            dimension=data.dimension,
            ratio=grid.ratio,
            slices=grid.shape[0],
            volumes=encoder.volumes,
            steps_3d=steps_3d,
            device=wishes.machine.kind,
            requested=wishes.config,
        ),
    )
    slices, why_slices = grid.shape[0], ""
    if chosen == "2d":
        slices = 1
    elif chosen == "2.5d":
        slices, why_slices = stack(grid.ratio, grid.shape[0])
        why_slices += "; "
    seconds = training.target_step_seconds(request.time_budget) if wishes.machine.kind == "cpu" else None
    limits = Limits(wishes.machine, request.memory_bytes, seconds)
    shape, why_patch = fitted((slices, *grid.shape[1:]), data.spacing, configuration=chosen, limits=limits)
    reasons.take("model.patch", (shape.patch, why_slices + why_patch))
    if shape.stages < stages:
        why_stages = f"{shape.stages} of {stages} that the cases' size allows: more need a larger patch than the limits"
    reasons.take("model.stages", (shape.stages, why_stages))
    if chosen == "3d":
        reasons.take(
            "model.slice_strides", slice_strides(data.spacing, grid.shape[0], shape.entry.strides[: shape.stages])
        )
    else:
        reasons.take("model.slice_strides", ((), f"{chosen} has no slice axis inside the network"))
    return shape


def _plan_model(shape: Shape, data: DataPlan, weights: Weights, wishes: Wishes, reasons: Reasons) -> ModelPlan:
    mapping = normalization.input_mapping([channel.normalization for channel in data.channels])
    configuration = shape.configuration
    return ModelPlan(
        configuration=configuration,
        patch=shape.patch,
        head=reasons.take("model.head", head_rule.head(wishes.head)),
        encoder=shape.entry.name,
        weights=weights,
        stages=shape.stages,
        slice_strides=shape.slice_strides,
        inflation=reasons.take("model.inflation", encoder_rule.inflation(configuration)),
        input_mapping=reasons.take("model.input_mapping", mapping),
        decoder_channels=reasons.take(
            "model.decoder_channels", decoder_channels(shape.entry.strides[: shape.stages], wishes.machine.kind)
        ),
    )
