"""``manifest.json``: everything that belongs to one run, and what came of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from seg_transfer.planning.fields import part_hash
from seg_transfer.planning.plan import Plan
from seg_transfer.transfer.unfreezing import StrategySchedule
from seg_transfer.transfer.weights import LoadReport

MANIFEST_FILE = "manifest.json"
PACKAGES = ("seg-transfer", "torch", "timm", "monai", "lightning-fabric", "numpy", "blosc2", "safetensors")


def build_manifest(
    *,
    plan: Plan,
    fold: int | str,
    train: Sequence[str],
    validation: Sequence[str],
    options: Mapping[str, Any],
    versions: Mapping[str, str],
    device: str,
    weights: Mapping[str, Any],
    frozen: Mapping[str, Any],
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Put a run's record together; pure, so that equal runs have equal records.

    Args:
        plan: What was trained; recorded by its hashes, since it lies beside the runs and in every checkpoint.
        fold: Which fold, or ``full``.
        train: Cases trained on.
        validation: Cases held out.
        options: What belongs to this run alone: overridden budget, seed, threads, …
        versions: Of Python and the packages that decide the result.
        device: Where it ran.
        weights: From :func:`describe_weights`.
        frozen: From :func:`describe_frozen`.
        result: How far it came: ``finished``, ``progress``, ``steps``, ``seconds``, ``dice``, …
    """
    return {
        "plan": plan.hash,
        "hashes": {name: part_hash(getattr(plan, name)) for name in ("data", "model", "recipe")},
        "fold": fold,
        "cases": {"train": list(train), "validation": list(validation)},
        "options": dict(options),
        "versions": dict(versions),
        "device": device,
        "weights": dict(weights),
        "frozen": dict(frozen),
        "result": dict(result),
    }


def describe_weights(report: LoadReport) -> dict[str, Any]:
    """Share of the encoder that is pretrained, and elements by what became of them; tensors that are random by name."""
    return {
        "share": report.share,
        "elements": {name: sum(group.values()) for name, group in report.groups.items()},
        "adapted": sorted(report.adapted),
        "random": sorted(report.random),
        "place": report.place,
    }


def describe_frozen(schedule: StrategySchedule) -> dict[str, Any]:
    """What each encoder stage does at the start and at the end, and how many of its elements never learn."""
    learning = {id(p) for group in schedule.parameter_groups(1.0, 0.0) for p in group["params"]}
    return {
        "strategy": schedule.strategy.model_dump(mode="json"),
        "at_start": {str(stage): state for stage, state in schedule.describe(0.0).items()},
        "at_end": {str(stage): state for stage, state in schedule.describe(1.0).items()},
        "elements_never_learning": sum(
            p.numel() for _, p in schedule.network.named_parameters() if id(p) not in learning
        ),
        "elements": sum(p.numel() for _, p in schedule.network.named_parameters()),
    }


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
