"""The plan in brief: the eight decisions that matter, in plain words, each with the first clause of its reason.

A rule's reason starts with its short form; what follows after a semicolon is for ``segtl plan --explain``.
"""

from __future__ import annotations

from dataclasses import dataclass

from seg_transfer.catalogue.encoders import BUNDLED
from seg_transfer.planning.data_plan import DataPlan, Normalization
from seg_transfer.planning.plan import Plan
from seg_transfer.util.texts import first_of
from seg_transfer.util.units import seconds_text

STRATEGY = {
    "gradual": "encoder learns stage by stage",
    "frozen": "encoder stays as it is",
    "partial": "finest stages stay as they are",
    "finetune": "all of the encoder learns",
    "scratch": "from random weights",
}
SOURCE = {"imagenet": "ImageNet weights", "file": "weights of a file", "model": "weights of an earlier model"}
LETTERS = "xyz"


@dataclass(frozen=True)
class Brief:
    """One decision: what it is about, the choice, and why."""

    decision: str
    choice: str
    why: str


def brief(plan: Plan) -> list[Brief]:
    """The decisions in brief, in the order in which they are shown."""
    reasons = {reason.field: reason.reason.split("; ")[0] for reason in plan.reasons}
    budget = "recipe.time_budget" if plan.recipe.time_budget is not None else "recipe.epochs"
    rows = [
        ("network", _network(plan), "model.configuration"),
        ("encoder", _encoder(plan), "model.weights"),
        ("transfer", _transfer(plan), "recipe.race" if plan.recipe.race else "recipe.strategy"),
        ("spacing", _spacing(plan.data), "data.spacing"),
        ("mirroring", _mirroring(plan), "recipe.augmentation.mirror_axes"),
        ("training", _training(plan), budget),
        ("folds", _folds(plan), "recipe.splits"),
    ]
    made = [Brief(decision, choice, reasons.get(field, "")) for decision, choice, field in rows]
    return [*made[:3], *_normalization(plan.data, reasons), *made[3:]]


def _network(plan: Plan) -> str:
    slices, u, v = plan.model.patch
    reads = {
        "2d": f"{u} x {v} pixels of an image",
        "2.5d": f"{slices} slices of {u} x {v}",
        "3d": f"{slices} x {u} x {v} voxels",
    }[plan.model.configuration]
    return f"{plan.model.configuration[:-1]}D, {reads}"


def _encoder(plan: Plan) -> str:
    model = plan.model
    if model.weights.source == "none":
        return f"{model.encoder}, random weights"
    if model.weights.source == "bundled":
        return f"{model.encoder}, {BUNDLED[model.encoder].images}"
    return f"{model.encoder}, {SOURCE[model.weights.source]}"


def _transfer(plan: Plan) -> str:
    if plan.model.head != "unet":
        return f"encoder stays as it is, with a {plan.model.head} classifier"
    if plan.recipe.race:
        return f"a race of {len(plan.recipe.candidates)} strategies"
    return STRATEGY.get(plan.recipe.strategy.name, plan.recipe.strategy.name)


def _normalization(data: DataPlan, reasons: dict[str, str]) -> list[Brief]:
    """A row for the channels that are treated alike, and one for the next such channels."""
    groups: dict[str, list[int]] = {}
    for index, channel in enumerate(data.channels):
        groups.setdefault(_scaled(channel.normalization), []).append(index)
    rows: list[Brief] = []
    for choice, channels in list(groups.items())[:2]:
        names = "" if len(groups) == 1 else f"{first_of(data.channels[index].name for index in channels)}: "
        why = reasons.get(f"data.channels.{channels[0]}.normalization", "")
        rows.append(Brief("" if rows else "normalization", names + choice, why))
    return rows


def _scaled(rule: Normalization) -> str:
    if rule.kind == "clip_zscore":
        return f"clipped to {rule.lower:.4g} to {rule.upper:.4g}, then z-score"
    if rule.kind == "minmax":
        return f"min-max from {rule.lower:.4g} to {rule.upper:.4g}"
    return "z-score of each image" if rule.kind == "zscore" else "intensities as stored"


def _spacing(data: DataPlan) -> str:
    sizes = " x ".join(f"{data.spacing[data.axes.index(axis)]:.3g}" for axis in range(data.dimension))
    return (
        f"{sizes} mm" if data.unit == "mm" else "pixels as stored" if set(data.spacing) == {1.0} else f"{sizes} pixels"
    )


def _mirroring(plan: Plan) -> str:
    axes = sorted(plan.data.axes[axis] for axis in plan.recipe.augmentation.mirror_axes)
    return f"along {' and '.join(LETTERS[axis] for axis in axes)}" if axes else "images are not mirrored"


def _training(plan: Plan) -> str:
    recipe, expected = plan.recipe, plan.expected
    if plan.model.head != "unet":
        return "a classifier is fitted"
    if recipe.time_budget is None:
        return f"{recipe.epochs} epoch{'s' if recipe.epochs != 1 else ''} of {recipe.steps_per_epoch} steps"
    steps = "" if expected is None else f", {recipe.time_budget / expected.seconds_per_step:.0f} steps"
    return f"{seconds_text(recipe.time_budget)} per fold{steps}"


def _folds(plan: Plan) -> str:
    splits = plan.recipe.splits
    held = sorted({len(split.validation) for split in splits})
    return f"{len(splits)}, each holds out {' or '.join(map(str, held))} case{'s' if held != [1] else ''}"
