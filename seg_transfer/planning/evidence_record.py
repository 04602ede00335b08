"""Records of evidence: probe, evidence of transfer, and race.

Per-stage tuples have one entry for each encoder stage in use, finest first.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field

from seg_transfer.options.train_options import TaskOptions
from seg_transfer.planning.fields import Fold
from seg_transfer.planning.strategy import Strategy
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.util.statistics import mean_of_defined

Classifier = Literal["softmax", "svm", "bayes"]
Probed = Literal["pretrained", "random", "raw", "filters"]


class Estimate(Record):
    """A mean over cases."""

    mean: float
    error: float | None = Field(description="standard error over cases; null for one case")

    def text(self, *, signed: bool = False) -> str:
        """The mean with its error, for messages."""
        return f"{self.mean:{'+' if signed else ''}.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


class ClassifierScore(Record):
    """Accuracy of a classifier on voxels of cases that it was not fitted to; all labels have the same weight."""

    balanced_accuracy: Estimate
    log_loss: Estimate | None = Field(description="in nats; null for the SVM, which has no probabilities")


class ProbedFeatures(Record):
    """One set of features."""

    source: Probed = Field(
        description="pretrained encoder; the same with random weights; or no encoder: intensities, local filters"
    )
    encoder: str | None = Field(description="name of the encoder, several joined by +; null without one")
    stage: int | None = Field(description="of the encoder, 0 the finest; null: all stages together, or no encoder")
    stride: int | None = Field(description="in-plane, of the stage")
    features: int = Field(ge=1, description="before PCA")
    scores: dict[Classifier, ClassifierScore]
    gain: Estimate | None = Field(
        default=None,
        description="pretrained only: balanced accuracy of the softmax minus that with random weights at this stage, "
        "per case",
    )
    draw_std: float | None = Field(
        default=None, description="random only: sample standard deviation of that accuracy between draws"
    )
    dice: dict[str, float | None] = Field(
        description="label or region -> mean Dice of the softmax over whole held-out cases of one fold, on the "
        "network's grid; null where neither prediction nor reference has it"
    )

    @property
    def mean_dice(self) -> float:
        """Mean over the labels whose Dice is defined; nan if none is."""
        return mean_of_defined(self.dice.values())


class ProbeEvidence(Record):
    """Result of `segtl probe`: classifiers on frozen features, and their controls."""

    plan: str = Field(description="hash of the plan's parts data and model")
    configuration: str
    weights: dict[str, str] = Field(description="encoder -> source of its weights, the plan's encoder first")
    batchnorm: Literal["source", "recalibrated"] = Field(
        description="statistics of the pretrained encoder's BatchNorm; with random weights always recalibrated"
    )
    context: bool = Field(description="whether the mean over the slice or patch was appended to the features")
    draws: int = Field(ge=1, description="number of draws of random weights; their results are means")
    cases: int = Field(ge=2)
    folds: int = Field(ge=2)
    held_out: int = Field(ge=1, description="cases that Dice was computed on")
    voxels: int = Field(ge=1, description="sampled, in all cases together")
    seed: int
    seconds: float
    features: tuple[ProbedFeatures, ...]


class TransferEvidence(Record):
    """Accuracy of frozen features on this data before training, for the planning rules.

    A softmax on the features of voxels, fitted to some cases and scored on others; one entry per stage in use.
    """

    measured_on: str = Field(description="hash of everything that it depends on")
    cases: int = Field(ge=2)
    voxels: int = Field(ge=1, description="sampled, in all cases together")
    pretrained: tuple[Estimate, ...] = Field(min_length=1, description="balanced accuracy, finest stage first")
    random: tuple[Estimate, ...] = Field(description="the same with random weights, mean over draws")
    gain: tuple[Estimate, ...] = Field(description="of the former over the latter, per case")
    seconds: float


class Evidence(JsonRecord):
    """``evidence.json`` of a work folder; each kind of evidence may be missing."""

    noun: ClassVar[str] = "record of evidence"
    if_wrong: ClassVar[str] = "delete this file, and measure again"

    version: Literal[1] = 1
    transfer: TransferEvidence | None = None
    probe: ProbeEvidence | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; empty where there is no file."""
        return super().load(path) if path.is_file() else cls()


class CandidateResult(Record):
    """Result of one candidate of a race."""

    strategy: Strategy
    seconds: float = Field(description="of training and scoring")
    dice: dict[str, dict[str, float | None]] = Field(
        description="held-out case -> label or region -> Dice on the network's grid, without mirroring; null where "
        "neither prediction nor reference has it"
    )

    def case_dice(self) -> dict[str, float]:
        """Mean over the labels of each case; nan where a case has none of them."""
        return {case: mean_of_defined(of_label.values()) for case, of_label in self.dice.items()}


class RaceEvidence(TaskOptions, JsonRecord):
    """A race at the start of one fold: ``race.json`` beside its model, saved after each candidate."""

    noun: ClassVar[str] = "race"
    if_missing: ClassVar[str] = "train this fold again"
    if_wrong: ClassVar[str] = "restore it from a copy, or train again with --restart"
    if_older: ClassVar[str] = "train again with --restart"

    version: Literal[2] = 2
    fold: Fold
    epochs: int | None = Field(description="budget of race and training together, if not in seconds")
    time_budget: float | None = Field(description="budget of race and training together, in seconds")
    steps: int = Field(ge=0, description="steps of each candidate")
    train: tuple[str, ...] = Field(description="cases that every candidate trained on")
    held_out: tuple[str, ...] = Field(description="training cases of the fold that candidates were scored on")
    results: tuple[CandidateResult, ...] = Field(
        default=(), description="of finished candidates, in the plan's order; empty where no race was held"
    )
    winner: int | None = Field(
        default=None, ge=0, description="index among the plan's candidates; null until all are finished"
    )
    reason: str = ""
