"""Classifiers are scored on held-out cases, and as heads their logits equal their own predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seg_transfer.evidence.classifiers import (
    PENALTIES,
    UNSEEN,
    Voxels,
    affine,
    cross_validate,
    linear_heads,
    share_bias,
)

CASES, PER_CASE = 12, 80


def made_voxels(labels: int = 2, groups: np.ndarray | None = None) -> Voxels:
    classes = np.tile(np.arange(PER_CASE) % labels, CASES)
    cases = np.repeat(np.arange(CASES), PER_CASE)
    return Voxels(classes, cases, np.arange(CASES) if groups is None else groups, labels)


def test_voxels_of_one_case_that_are_alike_do_not_leak() -> None:
    """Each class of each case has features of its own, found again at every voxel of it: known cases are no use."""
    voxels, draw = made_voxels(), np.random.default_rng(0)
    of_case = draw.normal(size=(CASES, 2, 40))
    features = of_case[voxels.cases, voxels.classes] + 0.01 * draw.normal(size=(len(voxels.cases), 40))
    features = features.astype(np.float32)
    softmax = make_pipeline(StandardScaler(), LogisticRegression())
    half = draw.random(len(features)) < 0.5
    assert softmax.fit(features[half], voxels.classes[half]).score(features[~half], voxels.classes[~half]) > 0.99
    for scores in cross_validate(features, voxels, seed=0).scores.values():
        assert scores.balanced_accuracy.mean() == pytest.approx(0.5, abs=0.17)


def test_cases_of_one_group_are_never_apart() -> None:
    groups = np.arange(CASES) // 3
    voxels = made_voxels(groups=groups)
    folds = voxels.folds()
    assert len(folds) == 4
    held = [set(voxels.cases[test]) for _, test in folds]
    assert sorted(map(sorted, held)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert all(not set(voxels.cases[train]) & cases for (train, _), cases in zip(folds, held, strict=True))
    assert len(made_voxels().folds()) == 5


def test_figures_of_each_case() -> None:
    """One feature tells the classes apart but in the last case, where it is the other way round."""
    voxels, draw = made_voxels(), np.random.default_rng(0)
    side = np.where(voxels.cases == CASES - 1, -1, 1) * (2 * voxels.classes - 1)
    features = (side + 0.1 * draw.normal(size=len(side)))[:, None].astype(np.float32)
    scores = cross_validate(features, voxels, seed=0).scores
    for name in ("softmax", "svm", "bayes"):
        assert scores[name].balanced_accuracy.tolist() == [1.0] * (CASES - 1) + [0.0]
    assert scores["svm"].log_loss is None
    for name in ("softmax", "bayes"):
        loss = scores[name].log_loss
        assert loss[:-1].max() < 0.4 and 1 < loss[-1] < 13.82  # no more than -log(1e-6)


def test_labels_count_alike_however_few_voxels_they_have() -> None:
    draw = np.random.default_rng(0)
    classes = np.tile(np.arange(PER_CASE) < 8, CASES).astype(np.int64)  # a tenth of the voxels
    voxels = Voxels(classes, np.repeat(np.arange(CASES), PER_CASE), np.arange(CASES), 2)
    noise = draw.normal(size=(len(classes), 3)).astype(np.float32)
    scores = cross_validate(noise, voxels, seed=0).scores
    assert scores["softmax"].balanced_accuracy.mean() == pytest.approx(0.5, abs=0.06)
    assert scores["softmax"].log_loss.mean() == pytest.approx(math.log(2), abs=0.05)


def test_a_label_that_only_one_case_has_is_not_scored_there() -> None:
    voxels = made_voxels()
    classes = np.where((voxels.cases == 5) & (voxels.classes == 1), 2, voxels.classes)
    features = np.eye(3)[classes] + 0.01 * np.random.default_rng(0).normal(size=(len(classes), 3))
    found = cross_validate(features.astype(np.float32), Voxels(classes, voxels.cases, voxels.groups, 3), seed=0)
    assert found.scores["softmax"].balanced_accuracy.tolist() == [1.0] * CASES  # case 5: of its background alone


def test_what_learns_cases_by_heart_is_held_back() -> None:
    """A weak feature that holds everywhere, beside many that are constant within a case."""
    voxels, draw = made_voxels(), np.random.default_rng(0)
    weak = (2 * voxels.classes - 1) + 1.5 * draw.normal(size=len(voxels.classes))
    of_case = draw.normal(size=(CASES, 2, 30))[voxels.cases, voxels.classes]
    features = np.column_stack([weak, of_case]).astype(np.float32)
    train, test = voxels.folds()[0]
    unheld = make_pipeline(StandardScaler(), LogisticRegression(C=1e3, max_iter=1000))
    unheld.fit(features[train], voxels.classes[train])
    chosen = cross_validate(features, voxels, seed=0)
    held = 1 / (chosen.softmax[-1].C * len(train))
    assert held in [pytest.approx(penalty) for penalty in PENALTIES[1:]]
    accuracy = chosen.scores["softmax"].balanced_accuracy.mean()
    assert accuracy > unheld.score(features[test], voxels.classes[test])


@pytest.mark.parametrize("labels", [2, 3])
def test_an_affine_map_is_the_whole_pipeline(labels: int) -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(3, 5, size=(200, 12)).astype(np.float32)
    classes = (features[:, 0] + draw.normal(size=200) > 3).astype(int) + (labels == 3) * (features[:, 1] > 3)
    pipeline = make_pipeline(StandardScaler(), PCA(5), LogisticRegression()).fit(features, classes)
    weight, bias = affine(pipeline, labels + 1)
    assert weight.shape == (labels + 1, 12) and bias[labels] == UNSEEN  # a class that was not there
    logits = features @ weight.T + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(
        (odds / odds.sum(axis=1, keepdims=True))[:, :labels], pipeline.predict_proba(features), atol=1e-5
    )


def test_the_bias_of_the_classes_frequencies() -> None:
    """A confident classifier keeps its decisions; one of small logits would lose the rare class."""
    classes = np.repeat([0, 1], 2000)
    voxels = Voxels(classes, np.zeros(4000, np.int64), np.zeros(1, np.int64), 2)
    weights = np.where(classes, 1.0, 99.0)
    everywhere = np.arange(4000)
    unsure = np.where(classes[:, None] == [0, 1], 0.1, -0.1)
    assert share_bias(unsure, voxels, weights, everywhere).tolist() == [0, 0]  # all other parts find nothing
    place = np.random.default_rng(0).normal(np.where(classes, 3, -3), 2)
    noisy = np.stack([0 * place, 1.5 * place], axis=1)  # the true log-odds, were classes equally frequent
    bias = share_bias(noisy, voxels, weights, everywhere)
    assert bias[1] - bias[0] < 0.6 * np.log(0.01)  # a little of the background is more than all of the rare one
    few = share_bias(noisy, voxels, np.ones(4000), everywhere)
    assert few[1] == few[0]


def test_heads_of_several_sources_add_up() -> None:
    draw = np.random.default_rng(0)
    weight, bias = draw.normal(size=(3, 9)).astype(np.float32), np.ones(3, np.float32)
    found = linear_heads(weight, bias, [(0, 1, 2), (0, 2, 3), (1, 0, 4)])
    assert {source: sorted(head.weights) for source, head in found.items()} == {0: [1, 2], 1: [0]}
    assert np.array_equal(np.column_stack([found[0].weights[1], found[0].weights[2], found[1].weights[0]]), weight)
    assert np.array_equal(found[0].bias + found[1].bias, bias)


def test_fewer_voxels_than_components_will_do() -> None:
    classes = np.tile([0, 1], 6)
    voxels = Voxels(classes, np.repeat(np.arange(3), 4), np.arange(3), 2)
    features = np.random.default_rng(0).normal(size=(12, 100)) + 9 * classes[:, None]
    scores = cross_validate(features.astype(np.float32), voxels, seed=0).scores
    assert scores["softmax"].balanced_accuracy.tolist() == [1.0] * 3
