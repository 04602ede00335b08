"""Scores of frozen features: against their definitions, and against a maximisation by brute force."""

from __future__ import annotations

import feature_scores
import numpy as np
import pytest
from feature_scores import (
    cc_fv,
    h_score,
    logme,
    measure_scores,
    potential_energy,
    score_stages,
    wasserstein,
)
from made_plans import data_plan, model_plan, plan
from scipy.linalg import sqrtm
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf

from seg_transfer.data.image import image_from_array
from seg_transfer.planning.plan import Plan, Strategy, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.preprocessing.transform import CaseTransform


def clusters(
    *, distance: float, labels: int = 3, cases: int = 3, each: int = 40, width: int = 6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of unit noise around a centre per label, labels, and cases."""
    draw = np.random.default_rng(0)
    classes = np.tile(np.repeat(np.arange(labels), each), cases)
    features = draw.normal(size=(len(classes), width)) + distance * np.eye(labels, width)[classes]
    return features, classes, np.repeat(np.arange(cases), labels * each)


def test_h_score_is_its_definition() -> None:
    features, labels, _ = clusters(distance=2)
    covariance, share = ledoit_wolf(features)
    assert 0.001 < share < 0.5
    expectations = np.stack([features[labels == label].mean(0) for label in labels])
    between = np.cov(expectations.T, bias=True)
    assert h_score(features, labels) == pytest.approx((1 - share) * np.trace(np.linalg.inv(covariance) @ between))


def test_h_score_is_the_number_of_labels_less_one_where_they_are_apart_and_shrinks_with_idle_channels() -> None:
    features, labels, _ = clusters(distance=200)
    assert h_score(features, labels) == pytest.approx(2, rel=0.02)
    noise = np.random.default_rng(1).normal(size=(len(labels), 200))
    centred = noise - noise.mean(0)
    expectations = np.stack([centred[labels == label].mean(0) for label in labels])
    unshrunk = np.trace(np.linalg.pinv(np.cov(centred.T, bias=True)) @ np.cov(expectations.T, bias=True))
    assert unshrunk > 0.9 and h_score(noise, labels) < unshrunk / 10


def brute_force_evidence(features: np.ndarray, target: np.ndarray) -> float:
    """Largest density of the targets over the precisions of weights and noise, each a Gaussian over all voxels."""

    def negative(logs: np.ndarray) -> float:
        alpha, beta = np.exp(logs)
        covariance = np.eye(len(target)) / beta + features @ features.T / alpha
        return -float(multivariate_normal(cov=covariance).logpdf(target))

    return -min(minimize(negative, start, method="Nelder-Mead").fun for start in ((0, 0), (3, 3), (-3, 3)))


def test_logme_is_the_largest_evidence_over_both_precisions() -> None:
    features, labels, _ = clusters(distance=2, cases=1, each=12)
    expected = np.mean([brute_force_evidence(features, (labels == label) * 1.0) for label in range(3)]) / len(labels)
    assert logme(features, labels) == pytest.approx(expected, rel=1e-6)


def test_logme_with_more_channels_than_voxels() -> None:
    features, labels, _ = clusters(distance=3, labels=2, cases=1, each=6, width=20)
    expected = np.mean([brute_force_evidence(features, (labels == label) * 1.0) for label in range(2)]) / len(labels)
    assert logme(features, labels) == pytest.approx(expected, abs=1e-4)


def test_logme_does_not_depend_on_the_scale_of_features() -> None:
    features, labels, _ = clusters(distance=2)
    assert logme(1000 * features, labels) == pytest.approx(logme(features, labels), rel=1e-6)


@pytest.mark.parametrize("each", [50, 4])  # more and fewer voxels than channels
def test_wasserstein_is_its_closed_form(each: int) -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(size=(each, 6)), draw.normal(1, 3, size=(each + 1, 6)) @ draw.normal(size=(6, 6))
    first, second = np.cov(one.T), np.cov(other.T)
    root = np.real(sqrtm(first))
    shared = np.trace(np.real(sqrtm(root @ second @ root)))
    square = np.sum((one.mean(0) - other.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * shared
    assert wasserstein(one, other) == pytest.approx(np.sqrt(square), rel=1e-3)


def test_wasserstein_of_a_shift_is_its_length() -> None:
    sample = np.random.default_rng(0).normal(size=(30, 3))
    assert wasserstein(sample, sample + np.array([3, 0, 4])) == pytest.approx(5)


def test_potential_energy_of_known_points() -> None:
    pair = np.array([[1.0, 0.0], [-7.0, 0.0]])  # opposite directions, at distance 2, whatever their lengths
    assert potential_energy(pair) == pytest.approx(0.5)
    square = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float)
    assert potential_energy(square) == pytest.approx((4 / np.sqrt(2) + 2 / 2) / 6)


def test_cc_fv_is_log_of_variety_over_consistency() -> None:
    features, labels, cases = clusters(distance=2, cases=3)
    features[cases == 2] += [0, 0, 0, 0, 4, 0]
    pairs = [(0, 1), (0, 2), (1, 2)]
    consistency = sum(
        np.mean([wasserstein(*(features[(labels == label) & (cases == case)] for case in pair)) for pair in pairs])
        for label in (1, 2)
    )
    energies = []
    for case in range(3):
        unit = features[cases == case] / np.linalg.norm(features[cases == case], axis=1, keepdims=True)
        distances = np.linalg.norm(unit[:, None] - unit, axis=2)
        energies.append(np.mean(1 / distances[~np.eye(len(unit), dtype=bool)]))
    assert cc_fv(features, labels, cases) == pytest.approx(np.log(np.mean(1 / np.array(energies)) / consistency))


def test_cases_that_differ_less_raise_cc_fv() -> None:
    features, labels, cases = clusters(distance=5)
    apart = features + 3 * cases[:, None]
    assert cc_fv(features, labels, cases) > cc_fv(apart, labels, cases) + 0.5


def test_cc_fv_thins_large_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_scores, "MOST_VOXELS", 3)
    seen = []
    monkeypatch.setattr(feature_scores, "wasserstein", lambda one, other: seen.append((len(one), len(other))) or 1.0)
    features, labels, cases = clusters(distance=1, cases=2)
    assert cc_fv(features, labels, cases) is not None and seen == [(3, 3), (3, 3)]


def test_better_features_score_higher_at_every_stage() -> None:
    good, labels, cases = clusters(distance=4)
    bad = clusters(distance=0.3)[0]
    found = score_stages([good, bad], labels, cases)
    assert (found.cases, found.voxels) == (3, 360)
    assert found.h_score[0] > found.h_score[1] + 1 and found.logme[0] > found.logme[1] + 0.3
    assert found.cc_fv is not None and len(found.cc_fv) == 2


def test_no_label_in_two_cases_has_no_consistency() -> None:
    features, labels, cases = clusters(distance=4, cases=1)
    assert score_stages([features], labels, cases).cc_fv is None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three volumes of boxes, brighter than the noise around them, whose texture alone tells the second label."""
    data = data_plan(cases=("a", "b", "c"), axes=(0, 1, 2))
    made = Store.create(tmp_path_factory.mktemp("store") / "x", data)
    for seed, case in enumerate(data.cases):
        draw = np.random.default_rng(seed)
        label = np.zeros((2, 48, 48), np.uint8)
        label[:, 6:22, 6:40], label[:, 26:42, 6:40] = 1, 2
        stripes = 2.0 * (np.indices(label.shape)[2] // 2 % 2)
        image = np.where(label > 0, np.where(label == 1, 1.0, stripes), -1) + 0.1 * draw.normal(size=label.shape)
        transform = CaseTransform.fit(image_from_array(image, (3.0, 1.0, 1.0)), data)
        made.add(case, transform.slabs(image_from_array(image, (3.0, 1.0, 1.0))), label, transform)
    return made


def made_plan(store: Store, *, batchnorm: str) -> Plan:
    strategy = Strategy(kind="finetune", encoder_lr_ratio=1, batchnorm=batchnorm)
    return plan(store.data, model_plan("2d", (1, 32, 32), weights=Weights(source="bundled")), strategy=strategy)


def test_measured_of_a_plan_every_stage_of_the_encoder(store: Store) -> None:
    made, cases = made_plan(store, batchnorm="source"), store.data.cases
    found = measure_scores(made, store, cases, seed=0, device="cpu", per_label=60)
    assert (found.cases, found.voxels) == (3, 3 * 3 * 60)
    assert len(found.h_score) == len(found.logme) == 5 and found.cc_fv is not None and len(found.cc_fv) == 5
    assert 1 < found.h_score[0] < 2  # brightness and texture show in the finest stage
    assert measure_scores(made, store, cases, seed=0, device="cpu", per_label=60) == found


def test_other_batchnorm_is_recalibrated_first(store: Store) -> None:
    source, other = (
        measure_scores(made_plan(store, batchnorm=batchnorm), store, ["a", "b"], seed=0, device="cpu", per_label=50)
        for batchnorm in ("source", "recalibrated")
    )
    assert source.voxels == other.voxels == 2 * 3 * 50
    assert source.h_score != other.h_score
