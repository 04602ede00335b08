"""How well frozen features tell labels apart, by three published scores; nothing is trained.

The scores take features ``(voxel, channel)`` as the encoder gives them, not standardised, and class indices. They are
here for comparison: arXiv 2204.01403 finds that no such score is best everywhere. ``bench/evidence.py`` prints which of
them put a random, a hardly trained and a trained encoder into the right order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.covariance import LedoitWolf

from seg_transfer.evidence.frozen_encoders import frozen_encoder, probed_model, recalibration_images
from seg_transfer.evidence.samples import PER_LABEL, sample_voxels
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store

Features = NDArray[np.floating]
Labels = NDArray[np.integer]

LOGME_ROUNDS = 200
LOGME_TOLERANCE = 1e-9
"""Relative change of the evidence's two precisions at which they count as found."""
LEAST_VOXELS, MOST_VOXELS = 2, 100
"""Of a label in a case for CC-FV: so that it has a covariance, and so that pairs of cases take no minutes."""


@dataclass(frozen=True)
class Scores:
    """Of every stage, finest first; more is better.

    Scores of different stages have different widths behind them: compare encoders at one stage, not stages.

    Attributes:
        cases: How many.
        voxels: Sampled, in all cases together.
        h_score: Shrunk H-score, 0 to labels - 1 (arXiv 2110.06893).
        logme: Log evidence per voxel of a linear model.
        cc_fv: Log of feature variety over class consistency (arXiv 2307.11958); None where no label is in two cases.
    """

    cases: int
    voxels: int
    h_score: tuple[float, ...]
    logme: tuple[float, ...]
    cc_fv: tuple[float, ...] | None


def measure_scores(
    plan: Plan, store: Store, cases: Sequence[str], *, seed: int, device: str, per_label: int = PER_LABEL
) -> Scores:
    """Score every stage of the plan's encoder, also those beyond the plan's, on voxels sampled as for the probe.

    BatchNorm has the source's statistics where the plan says so, and those of training patches otherwise.

    Args:
        plan: Encoder, weights, and how they read images.
        store: The preprocessed cases.
        cases: Those to sample.
        seed: Of the sample, and of random weights.
        device: Where the encoder computes.
        per_label: Voxels of each label and case, at most.

    Raises:
        UserError: If the encoder's weights cannot be loaded.
    """
    recalibrates = plan.recipe.strategy.batchnorm != "source"
    patches = list(recalibration_images(plan, store, cases, seed=seed)) if recalibrates else []
    encoder = frozen_encoder(plan, probed_model(plan), seed=seed, device=device, recalibrate=patches)
    found, labels, owners = [], [], []
    for index, case in enumerate(map(store.case, cases)):
        samples = sample_voxels(
            case.label[:], not_annotated=store.data.not_annotated, per_label=per_label, seed=seed + index
        )
        found.append(encoder.at(case.image[:], samples.positions))
        labels.append(samples.classes)
        owners.append(np.full(len(samples), index))
    stages = [np.concatenate(of_stage) for of_stage in zip(*found, strict=True)]
    return score_stages(stages, np.concatenate(labels), np.concatenate(owners))


def score_stages(stages: Sequence[Features], labels: Labels, cases: Labels) -> Scores:
    """All scores of all stages.

    Args:
        stages: Features of the same voxels at each stage.
        labels: Class index of each voxel.
        cases: Index of the case that each voxel is of.
    """
    varieties = [cc_fv(features, labels, cases) for features in stages]
    return Scores(
        cases=len(np.unique(cases)),
        voxels=len(labels),
        h_score=tuple(h_score(features, labels) for features in stages),
        logme=tuple(logme(features, labels) for features in stages),
        cc_fv=None if None in varieties else tuple(score for score in varieties if score is not None),
    )


def h_score(features: Features, labels: Labels) -> float:
    """Shrunk H-score: ``(1 - s) trace(S^-1 B)``, 0 to labels - 1 (Ibrahim et al., arXiv 2110.06893).

    ``S`` is the features' covariance, shrunk by Ledoit and Wolf's share ``s`` towards a multiple of the identity, ``B``
    the covariance of their label's mean. Without shrinkage it grows with every channel, whether that says anything or
    not, as soon as channels are many for the number of voxels.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    shrunk = LedoitWolf(assume_centered=True).fit(centred)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = means.T @ means / len(means)
    return float((1 - shrunk.shrinkage_) * np.trace(np.linalg.solve(shrunk.covariance_, between)))


def logme(features: Features, labels: Labels) -> float:
    """Log evidence per voxel of a Bayesian linear model of each label against the others, averaged over labels.

    The precisions of weights (alpha) and noise (beta) are those at which the evidence is largest (You et al., LogME,
    ICML 2021), found by MacKay's fixed point.
    """
    features = features.astype(np.float64)
    eigenvalues, vectors = np.linalg.eigh(features.T @ features)
    eigenvalues = eigenvalues.clip(min=0)
    evidences = []
    for label in np.unique(labels):
        target = (labels == label).astype(np.float64)
        projected = vectors.T @ (features.T @ target)
        evidences.append(_largest_evidence(eigenvalues, projected, float(target @ target), len(target)))
    return float(np.mean(evidences)) / len(labels)


def _largest_evidence(eigenvalues: Features, projected: Features, square: float, count: int) -> float:
    """Largest log evidence over alpha and beta.

    Args:
        eigenvalues: Of ``F^T F``.
        projected: ``F^T y`` along its eigenvectors.
        square: ``y^T y``.
        count: Number of voxels.
    """
    alpha = beta = 1.0
    for _ in range(LOGME_ROUNDS):
        mean = beta * projected / (alpha + beta * eigenvalues)
        rest = max(float(square - 2 * mean @ projected + mean**2 @ eigenvalues), np.finfo(float).tiny)
        known = float(np.sum(beta * eigenvalues / (alpha + beta * eigenvalues)))
        before = alpha, beta
        alpha, beta = known / float(mean @ mean), (count - known) / rest
        if np.allclose((alpha, beta), before, rtol=LOGME_TOLERANCE, atol=0):
            break
    return log_evidence(alpha, beta, eigenvalues, projected, square, count)


def log_evidence(
    alpha: float, beta: float, eigenvalues: Features, projected: Features, square: float, count: int
) -> float:
    """Log evidence of a Bayesian linear model at given precisions (Bishop, PRML, 3.86); arguments as above."""
    mean = beta * projected / (alpha + beta * eigenvalues)
    rest = square - 2 * mean @ projected + mean**2 @ eigenvalues
    return float(
        count / 2 * np.log(beta / (2 * np.pi))
        + len(eigenvalues) / 2 * np.log(alpha)
        - beta / 2 * rest
        - alpha / 2 * (mean @ mean)
        - np.log(alpha + beta * eigenvalues).sum() / 2
    )


def cc_fv(features: Features, labels: Labels, cases: Labels) -> float | None:
    """Class consistency and feature variety: ``log(variety / consistency)`` (Yang et al., arXiv 2307.11958).

    ``consistency`` is the mean over pairs of cases of the Wasserstein distance between the features of a label in the
    one and in the other, both taken for Gaussian, summed over the labels without background. ``variety`` is the mean
    over cases of one over the mean potential energy of a case's features on the unit sphere: energy is the reciprocal
    of the distance, and small where features point into all directions.

    Features are not standardised, as in the paper, so that an encoder with small features gains.

    Returns:
        None where no label but the background is in two cases.
    """
    features = features.astype(np.float64)
    consistency = 0.0
    for label in np.unique(labels[labels > 0]):
        groups = [features[(cases == case) & (labels == label)] for case in np.unique(cases)]
        groups = [_thinned(group) for group in groups if len(group) >= LEAST_VOXELS]
        if len(groups) > 1:
            consistency += float(np.mean([wasserstein(one, other) for one, other in combinations(groups, 2)]))
    if consistency == 0:
        return None
    variety = np.mean([1 / potential_energy(features[cases == case]) for case in np.unique(cases)])
    return float(np.log(variety / consistency))


def wasserstein(one: Features, other: Features) -> float:
    """2-Wasserstein distance between two samples ``(n, channel)``, each taken for Gaussian.

    The trace of the root of the product of covariances is the nuclear norm of the product of their factors, which needs
    no root of a matrix and is no larger than the smaller of samples and channels.
    """
    first, second = (_factor(sample) for sample in (one, other))
    shared = np.linalg.norm(first @ second.T, "nuc")
    square = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.sum(first**2) + np.sum(second**2) - 2 * shared
    return float(np.sqrt(max(square, 0.0)))


def potential_energy(features: Features) -> float:
    """Mean of one over the distance between any two directions of features ``(n, channel)``; at least 1/2."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = (features / np.maximum(lengths, np.finfo(np.float64).tiny))[lengths[:, 0] > 0]
    distances = pdist(directions)
    return float(np.mean(1 / np.maximum(distances, np.sqrt(np.finfo(np.float32).eps))))


def _thinned(sample: Features) -> Features:
    """At most ``MOST_VOXELS`` rows, evenly spread."""
    if len(sample) <= MOST_VOXELS:
        return sample
    return sample[np.linspace(0, len(sample) - 1, MOST_VOXELS).astype(int)]


def _factor(sample: Features) -> Features:
    """``F`` with as few rows as can be, of which ``F^T F`` is the covariance of ``(n, channel)``."""
    centred = (sample - sample.mean(0)) / np.sqrt(len(sample) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(sample) > sample.shape[1] else centred
