"""The result of an evaluation: metrics per case and label, and their summary per label."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, computed_field, field_validator, model_validator

from seg_transfer.data.geometry import Unit
from seg_transfer.evaluation.metrics import METRICS, OBJECT_METRICS, Metric
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.util.statistics import mean_of_defined

COUNTS = ("prediction_voxels", "reference_voxels")

NAN_AS_NULL = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="null")
"""Configuration of records with figures that may be undefined, since JSON has no nan."""
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number; where it is undefined nan in memory and null in JSON."""

LabelValue = int | tuple[int, ...]
"""Value of a label in label maps; for a region all of its values."""


class FigurePart(Record):
    """Base of records with figures."""

    model_config = NAN_AS_NULL


class LabelScore(FigurePart):
    """The scores of one label of one case; fields of other versions are ignored."""

    model_config = ConfigDict(extra="ignore")

    metrics: dict[str, Figure] = Field(description="name -> value; nan (null in JSON) where it is undefined")
    prediction_voxels: int
    reference_voxels: int

    @field_validator("metrics")
    @classmethod
    def _add_missing_metrics(cls, metrics: dict[str, float]) -> dict[str, float]:
        return dict.fromkeys(METRICS, math.nan) | metrics

    @property
    def empty(self) -> Literal["none", "both", "prediction", "reference"]:
        """Which of the two masks has no voxel."""
        if self.prediction_voxels == self.reference_voxels == 0:
            return "both"
        if self.prediction_voxels == 0:
            return "prediction"
        return "reference" if self.reference_voxels == 0 else "none"


class Figures(FigurePart):
    """One metric over the cases in which it is defined."""

    mean: Figure
    std: Figure = Field(description="of the population: 0 for a single case")
    median: Figure
    cases: int = Field(description="cases in which the metric is defined; the other three are over these alone")

    @classmethod
    def of(cls, values: list[float]) -> Figures:
        """Summarise, leaving out nan."""
        defined = np.array([value for value in values if not math.isnan(value)])
        if defined.size == 0:
            return cls(mean=math.nan, std=math.nan, median=math.nan, cases=0)
        return cls(
            mean=mean_of_defined(values),
            std=float(defined.std()),
            median=float(np.median(defined)),
            cases=defined.size,
        )


class LabelSummary(FigurePart):
    """One label over all cases."""

    metrics: dict[str, Figures]
    both_empty: int = Field(description="cases without this label in prediction and reference: Dice undefined")
    prediction_empty: int = Field(description="false negatives: cases whose label is not predicted at all, Dice 0")
    reference_empty: int = Field(description="false positives: cases without this label where it is predicted, Dice 0")

    @classmethod
    def of(cls, scores: list[LabelScore]) -> LabelSummary:
        """Summarise one label's scores, one per case."""
        names = dict.fromkeys([*METRICS, *(name for score in scores for name in score.metrics)])
        empty = [score.empty for score in scores]
        return cls(
            metrics={name: Figures.of([score.metrics.get(name, math.nan) for score in scores]) for name in names},
            both_empty=empty.count("both"),
            prediction_empty=empty.count("prediction"),
            reference_empty=empty.count("reference"),
        )


class Scores(JsonRecord):
    """``scores.json``: the result of an evaluation; fields of other versions are ignored.

    The summary in the file is for its readers; it is always computed from the cases.
    """

    model_config = NAN_AS_NULL | ConfigDict(extra="ignore")

    noun: ClassVar[str] = "file of scores"
    if_missing: ClassVar[str] = "evaluate first"
    if_wrong: ClassVar[str] = "evaluate again"
    reads_newer: ClassVar[bool] = True

    version: Literal[2] = 2
    unit: Unit = Field(description="unit of HD95 and the tolerance; volumes are in ml or pixels")
    tolerance: float = Field(description="tolerance of NSD, in unit")
    labels: dict[str, LabelValue] = Field(description="name -> value in the label maps, for a region all of its values")
    cases: dict[str, dict[str, LabelScore]] = Field(description="case -> label name -> scores")
    failures: dict[str, str] = Field(default={}, description="cases that could not be scored -> why")
    without_reference: tuple[str, ...] = Field(default=(), description="predicted cases that have no reference")
    models: tuple[str, ...] = Field(default=(), description="digests of the models that predicted, where known")

    @model_validator(mode="after")
    def _cases_have_the_labels(self) -> Scores:
        for case, of_label in self.cases.items():
            if of_label.keys() != self.labels.keys():
                raise ValueError(f"cases.{case}: its labels are not those of the field labels")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> dict[str, LabelSummary]:
        """Label -> its summary over all scored cases."""
        return {name: LabelSummary.of([case[name] for case in self.cases.values()]) for name in self.labels}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_dice(self) -> Figure:
        """Mean of the labels' mean Dice; labels that no case has are left out."""
        return mean_of_defined(self.label_dice.values())

    @property
    def columns(self) -> dict[str, Metric]:
        """Name -> metric of tables: those of objects only where the cases have them."""
        held = {name for of_label in self.cases.values() for score in of_label.values() for name in score.metrics}
        return {**METRICS, **{name: metric for name, metric in OBJECT_METRICS.items() if name in held}}

    @property
    def label_dice(self) -> dict[str, float]:
        """Label -> mean Dice over the cases; nan if no case has the label."""
        return {
            name: mean_of_defined(case[name].metrics["dice"] for case in self.cases.values()) for name in self.labels
        }

    def case_dice(self, case: str) -> float:
        """Mean Dice over the labels of one case; nan if it has none of them."""
        return mean_of_defined(score.metrics["dice"] for score in self.cases[case].values())

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Version 1 had the metrics as fields of each label's scores, beside the counts."""
        try:
            cases = {
                case: {label: _with_metrics(score) for label, score in of_label.items()}
                for case, of_label in content["cases"].items()
            }
        except (AttributeError, KeyError, TypeError):
            return None
        return content | {"cases": cases}


def _with_metrics(score: dict[str, Any]) -> dict[str, Any]:
    counts = {name: score[name] for name in COUNTS}
    return counts | {"metrics": {name: value for name, value in score.items() if name not in COUNTS}}
