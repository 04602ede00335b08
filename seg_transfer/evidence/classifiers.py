"""Classifiers of single voxels by their features, and their cross-validated scores.

Voxels of one case are similar, so a case is used either for fitting or for scoring, and there is one score per case. A
linear classifier of deep features, whose maps have few voxels per case, overfits unless it is regularised. The penalty
can matter more than the features (``bench/probe.py --penalties``), so it is chosen for each set of features. All scores
weight the classes of a case equally.
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

MOST_FOLDS = 5
PENALTIES = (1e-3, 3e-2, 1.0, 30.0)
"""Factors of the squared weights, relative to the mean loss of a voxel."""
ITERATIONS = 100
BIAS_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Factors of the classes' log-frequencies that are tried as a bias."""
SMALLEST = 1e-6
"""Lower bound of probabilities, so that one confident error does not dominate a log-loss."""
UNSEEN = -1e4
"""Logit of a class that is absent from the training voxels."""


@dataclass(frozen=True)
class Voxels:
    """Class and case of each sampled voxel.

    Attributes:
        classes: Class index of each voxel, ``(n,)``.
        cases: Index of each voxel's case, ``(n,)``.
        groups: Group of each case, ``(cases,)``; the cases of a group are in the same fold.
        labels: Number of classes.
    """

    classes: NDArray[np.int64]
    cases: NDArray[np.int64]
    groups: NDArray[np.int64]
    labels: int

    def folds(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Indices of the voxels for fitting and for scoring, in at most five folds."""
        count = min(MOST_FOLDS, len(np.unique(self.groups)))
        return list(GroupKFold(count).split(self.classes, groups=self.groups[self.cases]))


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
        logits: Logits of each classifier on held-out voxels, ``(n, labels)``: log-probabilities up to a term common to
            all labels; decision values for the SVM.
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
        voxels: Classes and cases of the rows.
        seed: Random seed of the PCA solver.
        kinds: The classifiers to fit.
    """
    folds, cases = voxels.folds(), len(voxels.groups)
    prepared, softmaxes = [], []
    losses = np.full((len(PENALTIES), cases), np.nan)
    for train, test in folds:
        projection = _projection(features[train], seed)
        with np.errstate(invalid="ignore"):  # PCA divides by a variance of 0 where all features are constant
            projected = projection.fit_transform(features[train]), projection.transform(features[test])
        models = _softmaxes(projected[0], voxels.classes[train])
        held_out = np.unique(voxels.cases[test])
        losses[:, held_out] = [_score(model, projected[1], voxels, test)[1, held_out] for model in models]
        prepared.append((projection, *projected))
        softmaxes.append(models)
    scores = {kind: np.full((2, cases), np.nan) for kind in kinds}
    logits = {kind: np.full((len(features), voxels.labels), UNSEEN) for kind in kinds}
    for number, (train, test) in enumerate(folds):
        held_out = np.unique(voxels.cases[test])
        chosen = int(np.nanmean(np.delete(losses, held_out, axis=1), axis=1).argmin())
        projection, train_features, test_features = prepared[number]
        if number == 0:
            softmax = make_pipeline(*(step for _, step in projection.steps), softmaxes[0][chosen])
        for kind in kinds:
            model = softmaxes[number][chosen]
            if kind != "softmax":
                model = _fit_projected(kind, train_features, voxels.classes[train], PENALTIES[chosen])
            logits[kind][np.ix_(test, model.classes_)] = _logits(model, test_features)
            scores[kind][:, held_out] = _score(model, test_features, voxels, test)[:, held_out]
    return CrossValidated(
        scores={
            kind: CaseScores(accuracy, None if kind == "svm" else log_loss)
            for kind, (accuracy, log_loss) in scores.items()
        },
        softmax=softmax,
        penalty=PENALTIES[int(np.nanmean(losses, axis=1).argmin())],
        logits=logits,
    )


@threadpool_limits.wrap(limits=1, user_api="blas")
def fit(
    kind: Classifier, features: NDArray[np.float32], classes: NDArray[np.int64], *, penalty: float, seed: int
) -> Pipeline:
    """Fit one classifier to all voxels: ``StandardScaler``, ``PCA`` and the classifier.

    Args:
        kind: The classifier.
        features: ``(n, features)``.
        classes: Class index of each voxel, ``(n,)``.
        penalty: The ``penalty`` of :class:`CrossValidated`; naive Bayes ignores it.
        seed: Random seed of the PCA solver.
    """
    projection = _projection(features, seed)
    model = _fit_projected(kind, projection.fit_transform(features), classes, penalty)
    return make_pipeline(*(step for _, step in projection.steps), model)


def share_bias(
    logits: NDArray[np.float64], voxels: Voxels, weights: NDArray[np.float64], chosen: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Bias of each class's logit for the segmentation of whole cases.

    A classifier is fitted with equal class weights and would predict too much foreground. With the full log-frequencies
    of the classes as a bias, a strongly regularised classifier would predict no foreground at all. The bias is the
    fraction of the log-frequencies with the highest Dice on held-out voxels.

    Args:
        logits: ``(n, labels)``, one classifier's logits of :class:`CrossValidated`.
        voxels: Classes of the rows.
        weights: Number of voxels that each row represents, ``(n,)``.
        chosen: Indices of the rows to use.

    Returns:
        ``(labels,)``.
    """
    reference, counts, logits = voxels.classes[chosen], weights[chosen], logits[chosen]
    totals = np.bincount(reference, counts, minlength=voxels.labels)
    occurring = np.flatnonzero(totals)
    log_shares = np.zeros(voxels.labels)
    log_shares[occurring] = np.log(totals[occurring] / totals.sum())
    best, bias = -1.0, log_shares
    for factor in BIAS_FACTORS:
        predicted = (logits + factor * log_shares).argmax(axis=1)
        predicted_totals = np.bincount(predicted, counts, minlength=voxels.labels)
        common = np.bincount(reference, counts * (predicted == reference), minlength=voxels.labels)
        mean = mean_of_defined(
            dice(common[label], predicted_totals[label], totals[label]) for label in occurring if label
        )
        if mean > best:
            best, bias = mean, factor * log_shares
    return bias.astype(np.float32)


def affine(fitted: Pipeline, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Combine standardizing, PCA and a linear classifier into weight ``(class, features)`` and bias ``(class,)``.

    Args:
        fitted: ``StandardScaler``, ``PCA``, and ``LogisticRegression`` or ``LinearSVC``.
        classes: Number of classes; those that the classifier was not fitted to get the logit :data:`UNSEEN`.
    """
    scaler, pca, model = (step for _, step in fitted.steps)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row, for the second class against the first
        coefficients, intercepts = np.vstack([0 * coefficients, coefficients]), np.append(0, intercepts)
    projected = coefficients @ pca.components_
    weight = np.zeros((classes, projected.shape[1]), np.float32)
    bias = np.full(classes, UNSEEN, np.float32)
    weight[model.classes_] = projected / scaler.scale_
    bias[model.classes_] = intercepts - projected @ (pca.mean_ + scaler.mean_ / scaler.scale_)
    return weight, bias


def linear_heads(
    weight: NDArray[np.float32], bias: NDArray[np.float32], parts: Sequence[tuple[int, int, int]]
) -> dict[int, LinearHead]:
    """Split an affine map of several sources' concatenated features into a head per source, whose logits add up.

    Args:
        weight: ``(class, features)``.
        bias: ``(class,)``; it goes to the first source's head.
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


def _projection(features: NDArray[np.float32], seed: int) -> Pipeline:
    """Standardizing and PCA; at most as many components as features and voxels."""
    return make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *features.shape), random_state=seed))


def _fit_projected(
    kind: Classifier, features: NDArray, classes: NDArray[np.int64], penalty: float, start: Model | None = None
) -> Model:
    """Fit a classifier to projected features, with equal class weights; a softmax may start from another one."""
    inverse = 1 / (penalty * len(classes))
    model: Model
    if kind == "softmax":
        model = LogisticRegression(C=inverse, class_weight="balanced", tol=1e-3, max_iter=ITERATIONS, warm_start=True)
        if isinstance(start, LogisticRegression):
            model.classes_, model.coef_, model.intercept_ = start.classes_, start.coef_.copy(), start.intercept_.copy()
    elif kind == "svm":
        model = LinearSVC(C=inverse, class_weight="balanced", dual=False, tol=1e-2, max_iter=ITERATIONS)
    else:
        count = len(np.unique(classes))
        model = GaussianNB(priors=np.full(count, 1 / count))
    # Held-out scores no longer change by then; a fit that has not converged acts like a larger penalty.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(features, classes)
    return model


def _softmaxes(features: NDArray, classes: NDArray[np.int64]) -> list[Model]:
    """A softmax classifier of each penalty; each fit starts from that of the next larger penalty."""
    found: list[Model] = [_fit_projected("softmax", features, classes, PENALTIES[-1])]
    for penalty in PENALTIES[-2::-1]:
        found.append(_fit_projected("softmax", features, classes, penalty, start=found[-1]))
    return found[::-1]


def _logits(model: Model, features: NDArray) -> NDArray[np.float64]:
    if isinstance(model, LinearSVC):
        values = model.decision_function(features)
        return values if values.ndim == 2 else np.stack([0 * values, values], axis=1)
    if isinstance(model, GaussianNB):
        return model.predict_joint_log_proba(features)
    return np.log(model.predict_proba(features).clip(SMALLEST))


def _score(model: Model, features: NDArray, voxels: Voxels, test: NDArray[np.int64]) -> NDArray[np.float64]:
    """Balanced accuracy and log-loss of each case, ``(2, cases)``; nan for other cases. Log-loss is nan for an SVM."""
    reference, cases = voxels.classes[test], voxels.cases[test]
    correct = model.predict(features) == reference
    loss = np.full(len(test), np.nan)
    if not isinstance(model, LinearSVC):
        column = np.searchsorted(model.classes_, reference).clip(max=len(model.classes_) - 1)
        loss = -np.log(model.predict_proba(features)[np.arange(len(test)), column].clip(SMALLEST))
    scores = np.full((2, len(voxels.groups)), np.nan)
    for case in np.unique(cases):
        in_case = cases == case
        members = [in_case & (reference == label) for label in np.intersect1d(reference[in_case], model.classes_)]
        if members:
            scores[:, case] = np.mean([[correct[label].mean(), loss[label].mean()] for label in members], axis=0)
    return scores
