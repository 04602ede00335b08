"""The plan's third part: how the network learns."""

from __future__ import annotations

from functools import partial

from seg_transfer.errors import UserError
from seg_transfer.planning.cost import Shape, step_flops
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.grid import Grid
from seg_transfer.planning.plan import ModelPlan, RecipePlan, Split, Weights
from seg_transfer.planning.reasons import Reasons
from seg_transfer.planning.request import PlanRequest, Wishes
from seg_transfer.planning.rules import head as head_rule
from seg_transfer.planning.rules import optimization as training
from seg_transfer.planning.rules import race as race_rule
from seg_transfer.planning.rules import strategy as transfer
from seg_transfer.planning.rules.augmentation import USUAL, augmentation, mirror_axes, tta_axes
from seg_transfer.planning.rules.patch import Limits, batch_size
from seg_transfer.planning.strategy import Candidate, Race
from seg_transfer.planning.variants import starting_weights
from seg_transfer.util.units import seconds_text


def plan_recipe(
    fingerprint: Fingerprint,
    grid: Grid,
    data: DataPlan,
    model: ModelPlan,
    shape: Shape,
    request: PlanRequest,
    wishes: Wishes,
    reasons: Reasons,
) -> tuple[RecipePlan, Weights]:
    """Decide batch, budget, strategy, optimization and augmentation.

    Args:
        fingerprint: Measurements.
        grid: The cases on the network's grid.
        data: The plan's part on data.
        model: The plan's part on the network.
        shape: What of the network decides its cost.
        request: The user's wishes.
        wishes: The same, narrowed to what is possible.
        reasons: Where the reasons go.

    Returns:
        The recipe, and the weights that its strategy starts from.
    """
    target = training.target_step_seconds(request.time_budget)
    limits = Limits(wishes.machine, request.memory_bytes, target)
    batch = reasons.take(
        "recipe.batch_size", batch_size(shape, limits, target_seconds=target, total_voxels=grid.voxels)
    )
    seconds = wishes.machine.seconds(step_flops(shape, batch))
    spent, why_spent = training.budget(
        wishes.machine.kind, seconds, epochs=request.epochs, time_budget=request.time_budget
    )
    reasons.take("recipe.epochs", (spent.epochs, why_spent))
    reasons.take("recipe.time_budget", (spent.time_budget, why_spent))
    reasons.take("recipe.steps_per_epoch", (spent.steps_per_epoch, why_spent))
    train = len(request.splits[0].train)
    labelled = round(fingerprint.labelled_slices(data.axes[0]) * train / len(fingerprint.cases))
    choose = partial(
        transfer.strategy,
        cases=train,
        labelled_slices=labelled,
        dimension=data.dimension,
        channels=len(data.channels),
        weights=model.weights,
        stages=model.stages,
        has_batchnorm=shape.entry.batchnorm,
        evidence=request.evidence,
        names=[channel.name for channel in data.channels],
        earlier=None if request.earlier is None else request.earlier.channels,
    )
    candidate, why = choose(requested=wishes.strategy)
    strategy = reasons.take("recipe.strategy", (candidate.strategy, why))
    challengers = race_rule.challengers(lambda kind: choose(requested=kind)[0])
    race = reasons.take("recipe.race", _race(challengers, model.weights, spent, fingerprint, request, wishes))
    mirrored, why_mirrored = mirror_axes(list(data.scored), data.axes, model.configuration, data.unit)
    varied, whys = augmentation(ratio=grid.ratio, configuration=model.configuration, unit=data.unit, mirrored=mirrored)
    reasons.take("recipe.augmentation", (varied, USUAL))
    for field, why in whys.items():
        reasons.take(f"recipe.augmentation.{field}", (getattr(varied, field), why))
    reasons.take("recipe.augmentation.mirror_axes", (mirrored, why_mirrored))
    recipe = RecipePlan(
        strategy=strategy,
        race=race,
        batch_size=batch,
        epochs=spent.epochs,
        time_budget=spent.time_budget,
        steps_per_epoch=spent.steps_per_epoch,
        learning_rate=reasons.take("recipe.learning_rate", training.LEARNING_RATE),
        weight_decay=reasons.take("recipe.weight_decay", training.WEIGHT_DECAY),
        warmup=reasons.take("recipe.warmup", training.warmup(spent.steps)),
        gradient_clip=reasons.take("recipe.gradient_clip", training.GRADIENT_CLIP),
        ema_decay=reasons.take("recipe.ema_decay", training.ema_decay(spent.steps)),
        precision=reasons.take("recipe.precision", training.precision(wishes.machine)),
        deep_supervision=reasons.take("recipe.deep_supervision", training.deep_supervision(model.stages)),
        foreground_share=reasons.take(
            "recipe.foreground_share",
            training.foreground_share(fingerprint.foreground_share(), fingerprint.smallest_label()),
        ),
        augmentation=varied,
        tta_axes=reasons.take("recipe.tta_axes", head_rule.tta_axes(model.head, tta_axes(mirrored))),
        splits=reasons.take("recipe.splits", _splits(request.splits, fingerprint)),
        seed=request.seed,
    )
    return recipe, starting_weights(model.weights, candidate)


def _race(
    challengers: tuple[Candidate, ...],
    weights: Weights,
    spent: training.Budget,
    fingerprint: Fingerprint,
    request: PlanRequest,
    wishes: Wishes,
) -> tuple[Race | None, str]:
    """The race that each fold starts with, if one is asked for."""
    if wishes.race is None:
        return None, "not asked for (--strategy race)"
    if weights.source == "none":
        raise UserError(race_rule.NO_RACE, where="--strategy race", hint=race_rule.RACE_HINT)
    kept = race_rule.held_out(
        request.splits,
        [case.id for case in fingerprint.cases],
        groups=request.groups,
        labels=fingerprint.held_labels(),
        seed=request.seed,
    )
    cost = race_rule.spend(wishes.race, epochs=spent.epochs, time_budget=spent.time_budget)
    text = f"{cost:g} epoch(s)" if spent.time_budget is None else seconds_text(cost)
    sizes = ", ".join(str(len(cases)) for cases in kept)
    return Race(share=wishes.race, challengers=challengers, held_out=kept), (
        f"asked for a race: {text} of each fold's budget, shared with recipe.strategy, which stays unless another is "
        f"better by more than chance on training cases held out ({sizes} of them)"
    )


def _splits(splits: tuple[Split, ...], fingerprint: Fingerprint) -> tuple[tuple[Split, ...], str]:
    sizes = ", ".join(f"{len(split.train)} + {len(split.validation)}" for split in splits)
    held = fingerprint.held_labels()
    why = f"training + validation cases of each fold: {sizes}"
    for label in fingerprint.labels:
        if label.cases < len(fingerprint.cases):
            counts = [sum(label.name in held[case] for case in split.validation) for split in splits]
            why += f"; with {label.name}: {', '.join(map(str, counts))} of the latter"
    return splits, why
