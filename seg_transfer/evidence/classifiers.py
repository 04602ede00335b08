"""Classifiers of single voxels by their features, and their cross-validated scores.

Voxels of one case are similar, so a case is used either for fitting or for scoring, and there is one figure per case. A
linear classifier of deep features, whose maps have few voxels per case, overfits unless it is regularised. The penalty
can matter more than the features do (``bench/probe.py --penalties``), so it is chosen for each set of features. All
figures weight the classes of a case equally, whatever their numbers of voxels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits
from torch import Tensor

from seg_transfer.network.linear_head import LinearHead
from seg_transfer.network.pixel_head import COMPONENTS
from seg_transfer.planning.evidence_record import Classifier
from seg_transfer.util.statistics import dice, mean_of_defined

Model: TypeAlias = LogisticRegression | LinearSVC | GaussianNB

FOLDS = 5
PENALTIES = (1e-3, 3e-2, 1.0, 30.0)
"""Factors of the squared weights, relative to the mean loss of a voxel."""
ITERATIONS = 100
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Factors of the classes' log-frequencies that are tried as a bias."""
SMALLEST = 1e-6
"""Lower bound of probabilities, so that one confident error does not dominate a log-loss."""
UNSEEN = -1e4
"""Logit of a class that is absent from the training voxels."""


@dataclass(frozen=True)
class Voxels:
    """Class and case of each sampled voxel.

    Attributes:
        classes: Class index of each, ``(n,)``.
        cases: Position of its case, ``(n,)``.
        groups: Group of each case, ``(cases,)``; the cases of a group are in the same fold.
        labels: Number of classes.
    """

    classes: NDArray[np.int64]
    cases: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: int

    def folds(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Indices of the voxels for fitting and for scoring, in at most five folds."""
        count = min(FOLDS, len(np.unique(self.groups)))
        nothing = np.empty((len(self.classes), 0))
        return list(GroupKFold(count).split(nothing, groups=self.groups[self.cases]))


@dataclass(frozen=True)
class CaseScores:
    """Scores of each case, ``(cases,)``; nan where a case has none of the classes that the classifier was fitted to."""

    balanced_accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64] | None


@dataclass(frozen=True)
class CrossValidated:
    """Cross-validated classifiers of one set of features.

    Attributes:
        scores: Scores of each classifier.
        softmax: The softmax classifier of the first fold.
        penalty: The penalty with which the softmax has the lowest log-loss over all cases.
        logits: Held-out logits of each classifier, ``(n, labels)``: log-probabilities up to a term that all labels
            share; for the SVM its decision values.
    """

    scores: Mapping[Classifier, CaseScores]
    softmax: Pipeline
    penalty: float
    logits: Mapping[Classifier, NDArray[np.float64]]


@threadpool_limits.wrap(limits=1, user_api="blas")
def cross_validate(
    features: NDArray[np.float32], voxels: Voxels, *, seed: int, kinds: Sequence[Classifier] = get_args(Classifier)
) -> CrossValidated:
    """Cross-validate classifiers.

    Features are standardized and projected on their first 64 principal components. The penalty is that of the softmax
    with the lowest log-loss on the held-out cases of the *other* folds; the SVM takes the same. The SVM has no
    log-loss: its decision values are not probabilities.

    Args:
        features: ``(n, features)``.
        voxels: Their classes and cases.
        seed: Random seed of the PCA solver.
        kinds: The classifiers to fit.
    """
    folds = voxels.folds()
    prepared, fitted = [], []
    losses = np.full((len(PENALTIES), len(voxels.groups)), np.nan)
    for train, test in folds:
        projection = _projection(features[train], seed)
        with np.errstate(invalid="ignore"):  # features that are the same everywhere explain none of no variance
            known, new = projection.fit_transform(features[train]), projection.transform(features[test])
        models = [_softmax(penalty, len(train)) for penalty in PENALTIES]
        for index, model in enumerate(models):
            _fit(model, known, voxels.classes[train])
            scored = _scored(model, new, voxels, test)
            losses[index] = np.where(np.isnan(scored[1]), losses[index], scored[1])
        prepared.append((projection, known, new))
        fitted.append(models)
    accuracies: dict[Classifier, NDArray[np.float64]] = {}
    log_losses: dict[Classifier, NDArray[np.float64]] = {}
    logits: dict[Classifier, NDArray[np.float64]] = {}
    for number, (train, test) in enumerate(folds):
        others = ~np.isin(np.arange(len(voxels.groups)), voxels.cases[test])
        chosen = int(np.nanmean(losses[:, others], axis=1).argmin())
        projection, known, new = prepared[number]
        if number == 0:
            softmax = make_pipeline(*(step for _, step in projection.steps), fitted[0][chosen])
        for name in kinds:
            model = fitted[number][chosen]
            if name != "softmax":
                model = _fitted(name, known, voxels.classes[train], PENALTIES[chosen])
            held_back = logits.setdefault(name, np.full((len(features), voxels.labels), UNSEEN))
            held_back[np.ix_(test, model.classes_)] = _logits(model, new)
            accuracy, loss = _scored(model, new, voxels, test)
            for figures, values in ((accuracies, accuracy), (log_losses, loss)):
                held = figures.setdefault(name, np.full(len(voxels.groups), np.nan))
                held[voxels.cases[test]] = values[voxels.cases[test]]
    scores = {name: CaseScores(accuracies[name], None if name == "svm" else log_losses[name]) for name in accuracies}
    penalty = PENALTIES[int(np.nanmean(losses, axis=1).argmin())]
    return CrossValidated(scores, softmax, penalty, logits)


@threadpool_limits.wrap(limits=1, user_api="blas")
def fit(
    kind: Classifier, features: NDArray[np.float32], classes: NDArray[np.int64], *, penalty: float, seed: int
) -> Pipeline:
    """Fit one classifier to all voxels: ``StandardScaler``, ``PCA`` and the classifier.

    Args:
        kind: The classifier.
        features: ``(n, features)``.
        classes: Class index of each voxel, ``(n,)``.
        penalty: That of :class:`CrossValidated`; naive Bayes has none.
        seed: Random seed of the PCA solver.
    """
    projection = _projection(features, seed)
    last = _fitted(kind, projection.fit_transform(features), classes, penalty)
    return make_pipeline(*(step for _, step in projection.steps), last)


def share_bias(
    logits: NDArray[np.float64], voxels: Voxels, weights: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Bias of each class's logit, so that whole cases are segmented well.

    A classifier is fitted with equal class weights and would predict too much foreground. With the full log-frequencies
    of the classes as a bias, a strongly regularised classifier would predict no foreground at all. The bias is the
    fraction of the log-frequencies with the highest Dice on held-out voxels.

    Args:
        logits: One classifier's held-out logits, of :class:`CrossValidated`.
        voxels: Their classes.
        weights: Number of voxels that each one represents, ``(n,)``.
        chosen: Indices of the voxels to use.

    Returns:
        ``(labels,)``.
    """
    truth, counts, logits = voxels.classes[chosen], weights[chosen], logits[chosen]
    shares = np.bincount(truth, counts, minlength=voxels.labels)
    known = np.flatnonzero(shares)
    log_shares = np.zeros(voxels.labels)
    log_shares[known] = np.log(shares[known] / shares.sum())
    best, bias = -1.0, log_shares
    for part in PARTS:
        predicted = (logits + part * log_shares).argmax(axis=1)
        found = np.bincount(predicted, counts, minlength=voxels.labels)
        common = np.bincount(truth, counts * (predicted == truth), minlength=voxels.labels)
        mean = mean_of_defined(dice(common[label], found[label], shares[label]) for label in known if label)
        if mean > best:
            best, bias = mean, part * log_shares
    return bias.astype(np.float32)


def affine(fitted: Pipeline, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Combine standardizing, PCA and a linear classifier into weight ``(class, features)`` and bias ``(class,)``.

    Args:
        fitted: ``StandardScaler``, ``PCA``, and ``LogisticRegression`` or ``LinearSVC``.
        classes: Number of classes; those that the classifier was not fitted to get a logit that never wins.
    """
    scaler, pca, last = (step for _, step in fitted.steps)
    coefficients, intercepts = last.coef_, last.intercept_
    if len(last.classes_) == 2:  # one row, for the second class against the first
        coefficients, intercepts = np.vstack([0 * coefficients, coefficients]), np.append(0, intercepts)
    projected = coefficients @ pca.components_
    weight = np.zeros((classes, projected.shape[1]), np.float32)
    bias = np.full(classes, UNSEEN, np.float32)
    weight[last.classes_] = projected / scaler.scale_
    bias[last.classes_] = intercepts - projected @ (pca.mean_ + scaler.mean_ / scaler.scale_)
    return weight, bias


def linear_heads(
    weight: NDArray[np.float32], bias: NDArray[np.float32], parts: Sequence[tuple[int, int, int]]
) -> dict[int, LinearHead]:
    """Split an affine map of several sources' features side by side into a head per source; their logits add up to it.

    Args:
        weight: ``(class, features)``.
        bias: ``(class,)``; the first source's head has it.
        parts: Source, stage and number of features of each part, in the order of the features.
    """
    weights: dict[int, dict[int, Tensor]] = {}
    start = 0
    for source, stage, width in parts:
        weights.setdefault(source, {})[stage] = torch.from_numpy(weight[:, start : start + width])
        start += width
    first = parts[0][0]
    return {
        source: LinearHead(stages, torch.from_numpy(bias if source == first else 0 * bias))
        for source, stages in weights.items()
    }


def _softmax(penalty: float, count: int) -> LogisticRegression:
    return LogisticRegression(C=1 / (penalty * count), class_weight="balanced", tol=1e-3, max_iter=ITERATIONS)


def _svm(penalty: float, count: int) -> LinearSVC:
    return LinearSVC(C=1 / (penalty * count), class_weight="balanced", dual=False, tol=1e-2, max_iter=ITERATIONS)


def _fitted(kind: Classifier, features: NDArray, classes: NDArray[np.int64], penalty: float) -> Model:
    seen = len(np.unique(classes))
    model: Model = GaussianNB(priors=np.full(seen, 1 / seen))
    if kind != "bayes":
        model = _softmax(penalty, len(classes)) if kind == "softmax" else _svm(penalty, len(classes))
    _fit(model, features, classes)
    return model


def _projection(features: NDArray[np.float32], seed: int) -> Pipeline:
    """Standardizing and PCA, with as many components as features and voxels allow."""
    return make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *features.shape), random_state=seed))


def _logits(model: Model, features: NDArray) -> NDArray[np.float64]:
    if isinstance(model, LinearSVC):
        values = model.decision_function(features)
        return values if values.ndim == 2 else np.stack([0 * values, values], axis=1)
    if isinstance(model, GaussianNB):
        return model.predict_joint_log_proba(features)
    return np.log(model.predict_proba(features).clip(SMALLEST))


def _fit(model: Model, features: NDArray, classes: NDArray[np.int64]) -> None:
    with warnings.catch_warnings():
        # Held-out scores no longer change by then; a fit that has not converged acts like a larger penalty.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, classes)


def _scored(
    model: Model,
    features: NDArray,
    voxels: Voxels,
    test: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Balanced accuracy and log-loss of each case; nan for cases that are not scored. Log-loss is nan for an SVM."""
    known = model.classes_
    truth, cases = voxels.classes[test], voxels.cases[test]
    right = model.predict(features) == truth
    loss = np.full(len(test), np.nan)
    if not isinstance(model, LinearSVC):
        column = np.searchsorted(known, truth).clip(max=len(known) - 1)
        loss = -np.log(model.predict_proba(features)[np.arange(len(test)), column].clip(SMALLEST))
    result = np.full((2, len(voxels.groups)), np.nan)
    for case in np.unique(cases):
        mine = cases == case
        members = [mine & (truth == label) for label in np.intersect1d(truth[mine], known)]
        if members:
            result[:, case] = np.mean([[right[each].mean(), loss[each].mean()] for each in members], axis=0)
    return result[0], result[1]
