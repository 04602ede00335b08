"""Small valid plans, and a stub network, for the tests of preprocessing and inference."""

from __future__ import annotations

from typing import Any

import torch

from seg_transfer.data.splits import Split
from seg_transfer.planning.data_plan import Channel, DataPlan, Label, Normalization
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.plan import ModelPlan, Plan, RecipePlan, Weights
from seg_transfer.planning.rules.strategy import finetune, scratch
from seg_transfer.planning.strategy import Strategy
from seg_transfer.training.manifest import (
    Cases,
    LearningStages,
    LoadedWeights,
    Manifest,
    RunResult,
    UsedOptions,
)


def data_plan(**changes: object) -> DataPlan:
    settings: dict = {
        "dataset": "made",
        "dimension": 3,
        "unit": "mm",
        "channels": (Channel(name="T1", normalization=Normalization(kind="zscore")),),
        "labels": (Label(name="background", value=0), Label(name="a", value=1), Label(name="b", value=2)),
        "cases": ("one",),
        "axes": (2, 0, 1),
        "spacing": (3.0, 1.0, 1.0),
        "crop_nonzero": False,
        "slice_order": 1,
    }
    return DataPlan(**(settings | changes))


def model_plan(configuration: str, patch: tuple[int, int, int], **changes: object) -> ModelPlan:
    settings: dict = {
        "configuration": configuration,
        "patch": patch,
        "encoder": "resnet18",
        "weights": Weights(source="none"),
        "stages": 2,
        "slice_strides": (1, 1) if configuration == "3d" else (),
        "input_mapping": "as_is",
        "decoder_channels": (8, 8),
    }
    return ModelPlan(**(settings | changes))


def learns(
    *start: float | None,
    rate: float | tuple[float, ...] = 1.0,
    batchnorm: Any = "trained",
    pretrained: int = 0,
    name: str = "made",
) -> Strategy:
    """A strategy of stages that start to learn at this progress, finest first; a single rate is that of all of them."""
    rates = rate if isinstance(rate, tuple) else tuple(0.0 if each is None else rate for each in start)
    return Strategy(name=name, start=start, rate=rates, batchnorm=batchnorm, pretrained_stages=pretrained)


def plan(data: DataPlan, model: ModelPlan, **recipe: object) -> Plan:
    settings: dict = {
        "strategy": finetune(model) if model.weights.source != "none" else scratch(model),
        "batch_size": 2,
        "epochs": 1,
        "precision": "float32",
        "splits": (Split(train=data.cases, validation=()),),
    }
    return Plan(data=data, model=model, recipe=RecipePlan(**(settings | recipe)))


def manifest(made: Plan, fold: Fold, *, finished: bool = True) -> Manifest:
    """What a run of a plan from random weights records."""
    return Manifest(
        plan=made.hash,
        fold=fold,
        cases=Cases.of(made, fold),
        options=UsedOptions(seed=0, epochs=1, time_budget=None, workers=0, threads=1),
        versions={"python": "3"},
        device="cpu",
        weights=LoadedWeights(share=0.0, elements={"random": 1}, adapted=(), random=("stem",), place=""),
        frozen=LearningStages(
            strategy=made.recipe.strategy, at_start={}, at_end={}, elements_never_learning=0, elements=1
        ),
        result=RunResult(finished=finished, progress=float(finished), epochs=1, steps=100, seconds=1.0),
    )


def threshold(windows: torch.Tensor) -> torch.Tensor:
    """A stub network that thresholds intensity: class 1 from 0.5, class 2 from 1.5."""
    return torch.cat([0.5 - windows, -((windows - 1).abs() - 0.5), windows - 1.5], dim=1) * 20
