"""The result of an evaluation: metrics per case and label, and their summary per label."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    computed_field,
    field_validator,
    model_validator,
)

from seg_transfer.data.geometry import Unit
from seg_transfer.errors import UserError
from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.util.files import write_text
from seg_transfer.util.statistics import mean_of_defined

SCORES_VERSION = 2
COUNTS = ("prediction_voxels", "reference_voxels")

# JSON knows no nan: an undefined figure is written as null and read back as nan.
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]

LabelValue = int | tuple[int, ...]
"""Value of a label in label maps; of a region all of its values."""


class _Record(BaseModel):
    # Fields that another version writes are left out; metrics that it knows are kept.
    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="null")


class LabelScore(_Record):
    """The scores of one label of one case."""

    metrics: dict[str, Figure] = Field(description="name -> value; nan (null in JSON) where it is not defined")
    prediction_voxels: int
    reference_voxels: int

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, record: Any) -> Any:
        """Version 1 of the file had the metrics as fields beside the counts."""
        if not isinstance(record, dict) or "metrics" in record:
            return record
        return record | {"metrics": {name: value for name, value in record.items() if name not in COUNTS}}

    @field_validator("metrics")
    @classmethod
    def _has_every_metric(cls, given: dict[str, float]) -> dict[str, float]:
        """Metrics that the file lacks are undefined."""
        return dict.fromkeys(METRICS, math.nan) | given

    @property
    def empty(self) -> Literal["none", "both", "prediction", "reference"]:
        """Which of the two masks has no voxel."""
        if self.prediction_voxels == self.reference_voxels == 0:
            return "both"
        if self.prediction_voxels == 0:
            return "prediction"
        return "reference" if self.reference_voxels == 0 else "none"


class Figures(_Record):
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


class LabelSummary(_Record):
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


class Scores(_Record):
    """The result of an evaluation, as ``scores.json`` holds it.

    The summary is in the file for its readers; here it is always computed from the cases.
    """

    version: Annotated[int, BeforeValidator(lambda _: SCORES_VERSION)] = SCORES_VERSION
    unit: Unit = Field(description="of HD95 and the tolerance; volumes are in ml or pixels")
    tolerance: float = Field(description="of NSD, in unit")
    labels: dict[str, LabelValue] = Field(description="name -> value in the label maps, of a region all of its values")
    cases: dict[str, dict[str, LabelScore]] = Field(description="case -> label name -> scores")
    failures: dict[str, str] = Field(default={}, description="cases that could not be scored -> why")
    without_reference: tuple[str, ...] = Field(default=(), description="predicted cases that have no reference")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> dict[str, LabelSummary]:
        """Per label, over all scored cases."""
        return {name: LabelSummary.of([case[name] for case in self.cases.values()]) for name in self.labels}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_dice(self) -> Figure:
        """Mean over labels of the labels' mean Dice; labels that no case has are left out."""
        return mean_of_defined(self.label_dice.values())

    @property
    def label_dice(self) -> dict[str, float]:
        """Label -> mean Dice over the cases; nan if no case has the label."""
        return {
            name: mean_of_defined(case[name].metrics["dice"] for case in self.cases.values()) for name in self.labels
        }

    def case_dice(self, case: str) -> float:
        """Mean Dice over the labels of one case; nan if it has none of them."""
        return mean_of_defined(score.metrics["dice"] for score in self.cases[case].values())

    def save(self, path: Path) -> None:
        """Write JSON."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what :meth:`save` wrote, in this or another version.

        Raises:
            UserError: If the file is not there or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError("there is no such file", where=path, hint="evaluate first") from None
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{field}: {first['msg']}", where=path, hint="evaluate again") from None
