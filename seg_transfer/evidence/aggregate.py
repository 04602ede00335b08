"""Aggregate the per-case scores of each feature set; draws of random weights are averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seg_transfer.evidence.classifiers import CaseScores
from seg_transfer.planning.evidence_record import Classifier, ClassifierScore, Estimate, Probed, ProbedFeatures
from seg_transfer.util.statistics import mean_of_defined, none_if_undefined


@dataclass(frozen=True)
class FeatureSet:
    """Features that are classified together.

    Attributes:
        source: Kind of features.
        encoder: Name of the encoder, several joined by +; None without one.
        stage: Stage of the encoder; None for all stages together.
        stride: In-plane stride of the stage.
        parts: Position of the source in its group, stage of that source, and the stage's number of features.
    """

    source: Probed
    encoder: str | None
    stage: int | None
    stride: int | None
    parts: tuple[tuple[int, int, int], ...]

    @property
    def key(self) -> tuple[Probed, str | None, int | None]:
        """The same for all draws of random weights."""
        return self.source, self.encoder, self.stage


@dataclass(frozen=True)
class FeatureScores:
    """Scores of a feature set."""

    of: FeatureSet
    scores: Mapping[Classifier, CaseScores]
    dice: Mapping[str, float]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Balanced accuracy of the softmax, ``(cases,)``."""
        return self.scores["softmax"].balanced_accuracy


def report(scores: Sequence[FeatureScores]) -> tuple[ProbedFeatures, ...]:
    """One entry per feature set, in their order; draws of random weights are averaged case by case."""
    together: dict[tuple[Probed, str | None, int | None], list[FeatureScores]] = {}
    for each in scores:
        together.setdefault(each.of.key, []).append(each)
    found = []
    for (_, encoder, stage), draws in together.items():
        found.append(_entry(draws, together.get(("random", encoder, stage))))
    return tuple(found)


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean over cases and its standard error; cases where the value is not defined (nan) are left out."""
    known = values[~np.isnan(values)]
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else None
    return Estimate(mean=float(known.mean()), error=error)


def _entry(draws: Sequence[FeatureScores], random: Sequence[FeatureScores] | None) -> ProbedFeatures:
    of = draws[0].of
    accuracy = _mean([each.accuracy for each in draws])
    means = [float(np.nanmean(each.accuracy)) for each in draws]
    gain = None
    if of.source == "pretrained" and random is not None:
        gain = estimate(accuracy - _mean([each.accuracy for each in random]))
    return ProbedFeatures(
        source=of.source,
        encoder=of.encoder,
        stage=of.stage,
        stride=of.stride,
        features=sum(width for _, _, width in of.parts),
        scores={name: _score([each.scores[name] for each in draws]) for name in draws[0].scores},
        gain=gain,
        draw_std=float(np.std(means, ddof=1)) if of.source == "random" else None,
        dice={name: none_if_undefined(mean_of_defined(each.dice[name] for each in draws)) for name in draws[0].dice},
    )


def _score(draws: Sequence[CaseScores]) -> ClassifierScore:
    losses = [each.log_loss for each in draws if each.log_loss is not None]
    return ClassifierScore(
        balanced_accuracy=estimate(_mean([each.balanced_accuracy for each in draws])),
        log_loss=estimate(_mean(losses)) if losses else None,
    )


def _mean(draws: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean of each case over the draws; a case is defined in every draw or in none."""
    return np.stack(draws).mean(axis=0)
