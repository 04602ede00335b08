"""What an evaluation says: figures per case and label, and their summary per label."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, computed_field

from seg_transfer.data.geometry import Unit
from seg_transfer.errors import UserError
from seg_transfer.util.files import write_text

# JSON knows no nan: an undefined figure is written as null and read back as nan.
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]

METRICS = ("dice", "iou", "hd95", "nsd", "volume_difference", "relative_volume_difference")


LabelValue = int | tuple[int, ...]
"""Value of a label in label maps; of a region all of its values."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class LabelScore(_Frozen):
    """One label of one case. A figure that is not defined is nan (null in JSON)."""

    dice: Figure = Field(description="2 |P and R| / (|P| + |R|); nan if both are empty, 0 if one is")
    iou: Figure = Field(description="|P and R| / |P or R|; nan if both are empty, 0 if one is")
    hd95: Figure = Field(
        description="larger of the two directed 95th percentiles of surface distance, mm (pictures: pixels); nan if"
        " either is empty, or ends where nothing is annotated"
    )
    nsd: Figure = Field(
        description="share of both surfaces within the tolerance of the other one; nan if both are empty, or either"
        " ends where nothing is annotated; 0 if one is empty"
    )
    volume_difference: Figure = Field(description="prediction minus reference, ml (pictures: pixels)")
    relative_volume_difference: Figure = Field(
        description="(prediction minus reference) over reference; nan if the reference is empty"
    )
    prediction_voxels: int
    reference_voxels: int

    @property
    def empty(self) -> Literal["none", "both", "prediction", "reference"]:
        """Which of the two has no voxel of this label."""
        if self.prediction_voxels == self.reference_voxels == 0:
            return "both"
        if self.prediction_voxels == 0:
            return "prediction"
        return "reference" if self.reference_voxels == 0 else "none"


class Figures(_Frozen):
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
            mean=float(defined.mean()), std=float(defined.std()), median=float(np.median(defined)), cases=defined.size
        )


class LabelSummary(_Frozen):
    """One label over all cases."""

    dice: Figures
    iou: Figures
    hd95: Figures
    nsd: Figures
    volume_difference: Figures
    relative_volume_difference: Figures
    both_empty: int = Field(description="cases without this label in prediction and reference: every metric undefined")
    prediction_empty: int = Field(description="cases where the label was missed: Dice 0, HD95 undefined")
    reference_empty: int = Field(description="cases where the label was made up: Dice 0, HD95 undefined")


class Scores(_Frozen):
    """The result of an evaluation, as ``scores.json`` holds it."""

    # The summary lies in the file for its readers; here it is always computed from the cases.
    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    unit: Unit = Field(description="of HD95 and the tolerance; volumes are in ml or pixels")
    tolerance: float = Field(description="of NSD, in unit")
    labels: dict[str, LabelValue] = Field(description="name -> value in the label maps, of a region all of its values")
    cases: dict[str, dict[str, LabelScore]] = Field(description="case -> label name -> figures")
    failures: dict[str, str] = Field(default={}, description="cases that could not be scored -> why")
    without_reference: tuple[str, ...] = Field(default=(), description="predicted cases that have no reference")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def summary(self) -> dict[str, LabelSummary]:
        """Per label, over all scored cases."""
        return {name: _summarise([case[name] for case in self.cases.values()]) for name in self.labels}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_dice(self) -> Figure:
        """Mean over labels of the labels' mean Dice; labels that no case has are left out."""
        return Figures.of([label.dice.mean for label in self.summary.values()]).mean

    def case_dice(self, case: str) -> float:
        """Mean Dice over the labels of one case; nan if it has none of them."""
        return Figures.of([score.dice for score in self.cases[case].values()]).mean

    def save(self, path: Path) -> None:
        """Write JSON."""
        write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what :meth:`save` wrote.

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


def _summarise(scores: list[LabelScore]) -> LabelSummary:
    figures = {metric: Figures.of([getattr(score, metric) for score in scores]) for metric in METRICS}
    empty = [score.empty for score in scores]
    return LabelSummary(
        **figures,
        both_empty=empty.count("both"),
        prediction_empty=empty.count("prediction"),
        reference_empty=empty.count("reference"),
    )
