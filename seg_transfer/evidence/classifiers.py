"""Classifiers of single voxels by their features, and how good they are on cases that they were not fitted to.

Voxels of one case are alike: a case is either fitted to or scored on, figures are one per case, and a linear classifier
of deep features, whose maps have few voxels in each case, learns the cases by heart unless it is held back. How much
can decide more than the features do (``bench/probe.py --penalties``): it is chosen for each set of features. All
figures count each class of a case alike, however many voxels it has.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

import numpy as np
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

from seg_transfer.evidence.heads import Head
from seg_transfer.network.pixel_head import COMPONENTS
from seg_transfer.planning.evidence_record import Classifier
from seg_transfer.util.statistics import dice, mean_of_defined

Model: TypeAlias = LogisticRegression | LinearSVC | GaussianNB

FOLDS = 5
PENALTIES = (1e-3, 3e-2, 1.0, 30.0)
"""Of the squared weights, beside the mean loss of a voxel."""
ITERATIONS = 100
PARTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the classes' log-shares."""
SMALLEST = 1e-6
"""Probabilities below it count as this much: one voxel that a classifier was sure of does not decide a log-loss."""
UNSEEN = -1e4
"""Score of a class that the classifier was not shown."""


@dataclass(frozen=True)
class Voxels:
    """Which sampled voxel is of which class and case.

    Attributes:
        classes: Class index of each, ``(n,)``.
        cases: Position of its case, ``(n,)``.
        groups: Group of each case, ``(cases,)``; groups are not torn apart.
        labels: Number of classes.
    """

    classes: NDArray[np.int64]
    cases: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: int

    def folds(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Voxels fitted to and scored on, at most five times."""
        count = min(FOLDS, len(np.unique(self.groups)))
        nothing = np.empty((len(self.classes), 0))
        return list(GroupKFold(count).split(nothing, groups=self.groups[self.cases]))


@dataclass(frozen=True)
class CaseScores:
    """One figure per case, ``(cases,)``; nan where a case holds no class that the classifier was shown."""

    balanced_accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64] | None


@dataclass(frozen=True)
class CrossValidated:
    """What became of one set of features.

    Attributes:
        scores: Of each classifier.
        softmax: As it was fitted for the first fold's cases.
        penalty: With which the softmax has the lowest log-loss over all cases.
        logits: Of each classifier, ``(n, labels)``: log-probabilities but for a term that all labels share, of the SVM
            its decision values; each voxel's by the fit that did not see its case.
    """

    scores: Mapping[Classifier, CaseScores]
    softmax: Pipeline
    penalty: float
    logits: Mapping[Classifier, NDArray[np.float64]]


@threadpool_limits.wrap(limits=1, user_api="blas")
def cross_validate(
    features: NDArray[np.float32], voxels: Voxels, *, seed: int, kinds: Sequence[Classifier] = get_args(Classifier)
) -> CrossValidated:
    """Fit classifiers to the cases of all folds but one, and score them on that one's, in turn.

    Features are standardized and projected on their first 64 principal components. The penalty is that of the softmax
    with the lowest log-loss on the held-out cases of the *other* folds; the SVM takes the same. The SVM has no
    log-loss: its scores are no probabilities.

    Args:
        features: ``(n, features)``.
        voxels: Their classes and cases.
        seed: Of the projection where it is computed from random ones.
        kinds: Which classifiers.
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
        kind: Which.
        features: ``(n, features)``.
        classes: Of the voxels.
        penalty: Of :class:`CrossValidated`; naive Bayes has none.
        seed: Of the projection where it is computed from random ones.
    """
    projection = _projection(features, seed)
    last = _fitted(kind, projection.fit_transform(features), classes, penalty)
    return make_pipeline(*(step for _, step in projection.steps), last)


def share_bias(
    logits: NDArray[np.float64], voxels: Voxels, weights: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What to add to each class's score so that whole cases are segmented well.

    A classifier is fitted as if classes were equally frequent, and too much would become foreground. With all of the
    classes' log-shares added, one that is held back and therefore never sure would find no foreground at all.
    The part of them is added with which Dice is highest on voxels that it did not see.

    Args:
        logits: One classifier's, of :class:`CrossValidated`.
        voxels: Their classes.
        weights: Voxels that each stands for.
        chosen: Which voxels to decide by.

    Returns:
        ``(labels,)``.
    """
    truth, counts, scores = voxels.classes[chosen], weights[chosen], logits[chosen]
    shares = np.bincount(truth, counts, minlength=voxels.labels)
    known = np.flatnonzero(shares)
    log_shares = np.zeros(voxels.labels)
    log_shares[known] = np.log(shares[known] / shares.sum())
    best, bias = -1.0, log_shares
    for part in PARTS:
        predicted = (scores + part * log_shares).argmax(axis=1)
        found = np.bincount(predicted, counts, minlength=voxels.labels)
        common = np.bincount(truth, counts * (predicted == truth), minlength=voxels.labels)
        mean = mean_of_defined(dice(common[label], found[label], shares[label]) for label in known if label)
        if mean > best:
            best, bias = mean, part * log_shares
    return bias.astype(np.float32)


def affine(fitted: Pipeline, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight ``(class, features)`` and bias ``(class,)`` of standardizing, PCA and a linear classifier together.

    Args:
        fitted: ``StandardScaler``, ``PCA``, and ``LogisticRegression`` or ``LinearSVC``.
        classes: Number of classes; those that the classifier was not shown get a score that never wins.
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


def heads(
    weight: NDArray[np.float32], bias: NDArray[np.float32], parts: Sequence[tuple[int, int, int]]
) -> dict[int, Head]:
    """An affine map of features of several sources side by side, as a head for each source; their scores add up to it.

    Args:
        weight: ``(class, features)``.
        bias: ``(class,)``; the first source's head has it.
        parts: Source, stage and number of features, in the order of the features.
    """
    weights: dict[int, dict[int, NDArray[np.float32]]] = {}
    start = 0
    for source, stage, width in parts:
        weights.setdefault(source, {})[stage] = weight[:, start : start + width]
        start += width
    first = parts[0][0]
    return {source: Head(stages, bias if source == first else 0 * bias) for source, stages in weights.items()}


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
    """Of as many components as features and voxels allow."""
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
        # Held-out figures do not move any more by then, and a smaller penalty that has not converged is one more.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, classes)


def _scored(
    model: Model,
    features: NDArray,
    voxels: Voxels,
    test: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Balanced accuracy and log-loss of each case, nan for those that are not scored; the latter nan for an SVM."""
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
