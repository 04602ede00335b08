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

    feature_set: FeatureSet
    scores: Mapping[Classifier, CaseScores]
    dice: Mapping[str, float]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Balanced accuracy of the softmax, ``(cases,)``."""
        return self.scores["softmax"].balanced_accuracy


def aggregate(scores: Sequence[FeatureScores]) -> tuple[ProbedFeatures, ...]:
    """One entry per feature set, in their order; draws of random weights are averaged case by case."""
    by_key: dict[tuple[Probed, str | None, int | None], list[FeatureScores]] = {}
    for draw in scores:
        by_key.setdefault(draw.feature_set.key, []).append(draw)
    return tuple(_entry(draws, by_key.get(("random", encoder, stage))) for (_, encoder, stage), draws in by_key.items())


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean over cases and its standard error; undefined values (nan) are left out."""
    defined = values[~np.isnan(values)]
    error = float(defined.std(ddof=1) / math.sqrt(len(defined))) if len(defined) > 1 else None
    return Estimate(mean=float(defined.mean()), error=error)


def _entry(draws: Sequence[FeatureScores], random: Sequence[FeatureScores] | None) -> ProbedFeatures:
    features = draws[0].feature_set
    accuracy = _mean([draw.accuracy for draw in draws])
    means = [float(np.nanmean(draw.accuracy)) for draw in draws]
    gain = None
    if features.source == "pretrained" and random is not None:
        gain = estimate(accuracy - _mean([draw.accuracy for draw in random]))
    return ProbedFeatures(
        source=features.source,
        encoder=features.encoder,
        stage=features.stage,
        stride=features.stride,
        features=sum(width for _, _, width in features.parts),
        scores={name: _score([draw.scores[name] for draw in draws]) for name in draws[0].scores},
        gain=gain,
        draw_std=float(np.std(means, ddof=1)) if features.source == "random" else None,
        dice={name: none_if_undefined(mean_of_defined(draw.dice[name] for draw in draws)) for name in draws[0].dice},
    )


def _score(draws: Sequence[CaseScores]) -> ClassifierScore:
    losses = [draw.log_loss for draw in draws if draw.log_loss is not None]
    return ClassifierScore(
        balanced_accuracy=estimate(_mean([draw.balanced_accuracy for draw in draws])),
        log_loss=estimate(_mean(losses)) if losses else None,
    )


def _mean(draws: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean of each case over the draws; a case is defined in every draw or in none."""
    return np.stack(draws).mean(axis=0)
