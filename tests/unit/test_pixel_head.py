"""Fitted classifiers as networks: at every voxel their logits are what scikit-learn says of the features there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_plans import model_plan
from sklearn.pipeline import Pipeline

from seg_transfer.evidence.classifiers import UNSEEN, fit
from seg_transfer.evidence.features import FrozenEncoder
from seg_transfer.evidence.fit_head import UNSEEN_BAYES, put_head
from seg_transfer.network.build import build_network
from seg_transfer.network.pixel_head import PixelHead
from seg_transfer.planning.evidence_record import Classifier
from seg_transfer.planning.plan import ModelPlan

pytestmark = pytest.mark.usefixtures("one_thread")
PATCHES = {"2d": (1, 24, 32), "2.5d": (3, 24, 32), "3d": (6, 24, 32)}
SHARES = np.array([0.0, -0.5, 0.25, 0.0], np.float32)
CLASSES = 4
"""Of which the last never occurs."""


def made(configuration: str, head: Classifier, **changes: object) -> tuple[PixelHead, ModelPlan]:
    model = model_plan(configuration, PATCHES[configuration], head=head, **changes)
    network, _ = build_network(model, channels=1, classes=CLASSES, seed=0)
    assert isinstance(network, PixelHead)
    return network.eval(), model


def fitted(
    network: PixelHead, model: ModelPlan, head: Classifier, *, seen: int = 3
) -> tuple[Pipeline, np.ndarray, np.ndarray, np.ndarray]:
    """The classifier in the network, an image, every third voxel of its middle patch and the features there."""
    image = np.random.default_rng(0).normal(size=(1, *model.patch)).astype(np.float32)
    slices = range(model.patch[0]) if model.configuration == "3d" else [model.patch[0] // 2]
    grid = np.meshgrid(slices, range(0, 24, 3), range(0, 32, 3), indexing="ij")
    positions = np.stack(grid, axis=-1).reshape(-1, 3)
    features = np.concatenate(FrozenEncoder(network, model, reduced=False).at(image, positions), axis=1)
    middle = image[0, positions[:, 0], positions[:, 1], positions[:, 2]]
    classes = np.digitize(middle, [-0.5, 0.8]) if seen == 3 else (middle > 0).astype(int)
    pipeline = fit(head, features, classes, penalty=1e-3, seed=0)
    with torch.no_grad():
        put_head(network, pipeline, SHARES)
    return pipeline, image, positions, features


def logits_at(network: PixelHead, image: np.ndarray, positions: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = network(torch.from_numpy(image)[None])[0]
    slices = positions[:, 0] if logits.shape[1] > 1 else 0 * positions[:, 0]
    return logits[:, slices, positions[:, 1], positions[:, 2]].T.numpy()


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_an_svms_logits_are_its_decision_values(configuration: str) -> None:
    network, model = made(configuration, "svm", slice_strides=(1, 2) if configuration == "3d" else ())
    pipeline, image, positions, features = fitted(network, model, "svm")
    expected = pipeline.decision_function(features)
    found = logits_at(network, image, positions) - SHARES
    assert np.allclose(found[:, :3], expected, atol=1e-3 * np.abs(expected).max())
    assert (found[:, 3] == UNSEEN).all()


@pytest.mark.parametrize("configuration", ["2d", "3d"])
def test_softmax_of_the_logits_is_the_softmaxs(configuration: str) -> None:
    network, model = made(configuration, "softmax")
    pipeline, image, positions, features = fitted(network, model, "softmax")
    found = torch.from_numpy(logits_at(network, image, positions) - SHARES).softmax(dim=1).numpy()
    assert np.allclose(found[:, :3], pipeline.predict_proba(features), atol=1e-3)
    assert pipeline.predict_proba(features).max() > 0.6  # it has learned something


@pytest.mark.parametrize("configuration", ["2d", "2.5d", "3d"])
def test_bayes_logits_are_log_likelihoods(configuration: str) -> None:
    """Between map voxels too, where the square of what is interpolated is not what interpolated squares are."""
    network, model = made(configuration, "bayes", slice_strides=(1, 2) if configuration == "3d" else ())
    pipeline, image, positions, features = fitted(network, model, "bayes")
    expected = pipeline[-1].predict_joint_log_proba(pipeline[:-1].transform(features))
    found = logits_at(network, image, positions)
    assert np.allclose((found - SHARES)[:, :3], expected, rtol=1e-3, atol=0.05)
    assert (found[:, 3] == np.float32(UNSEEN_BAYES)).all()


@pytest.mark.parametrize("head", ["softmax", "svm", "bayes"])
def test_two_classes(head: Classifier) -> None:
    network, model = made("2d", head)
    pipeline, image, positions, features = fitted(network, model, head, seen=2)
    found = logits_at(network, image, positions) - SHARES
    assert np.array_equal(found.argmax(1), pipeline.predict(features))


def test_few_features_have_fewer_components() -> None:
    network, model = made("2d", "bayes", encoder="mobilenetv3_large_100", stages=1, decoder_channels=(8,))
    assert network.linear.shape == (CLASSES, 16)
    pipeline, image, positions, features = fitted(network, model, "bayes")
    expected = pipeline[-1].predict_joint_log_proba(pipeline[:-1].transform(features))
    assert np.allclose((logits_at(network, image, positions) - SHARES)[:, :3], expected, rtol=1e-3, atol=0.05)


def test_logits_are_float32_whatever_the_encoder_computes_in() -> None:
    network, model = made("2d", "svm")
    _, image, _, _ = fitted(network, model, "svm")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.from_numpy(image)[None]).dtype == torch.float32


def test_before_it_is_fitted_all_logits_are_zero() -> None:
    network, _ = made("3d", "bayes")
    assert network(torch.randn(2, 1, 6, 25, 33)).shape == (2, CLASSES, 6, 25, 33)
    assert not network(torch.randn(1, 1, 6, 24, 32)).any()
