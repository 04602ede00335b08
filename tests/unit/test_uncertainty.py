"""Entropy and confidence, beside the same formulas over whole arrays."""

from __future__ import annotations

import numpy as np
import pytest
from made_plans import data_plan

from seg_transfer.data.description import Region
from seg_transfer.data.image import image_from_array
from seg_transfer.inference.classes import decide
from seg_transfer.inference.uncertainty import Uncertainty
from seg_transfer.planning.data_plan import DataPlan, Label
from seg_transfer.preprocessing.case_transform import CaseTransform

SHAPE = (6, 5, 4)
AXES = (2, 0, 1)
"""Of the plan: (slice, u, v) is (z, x, y)."""


def collected(probabilities: np.ndarray, data: DataPlan, axis: int = 0) -> Uncertainty:
    """``probabilities`` are ``(output, slice, u, v)`` of a case whose file has (x, y, z)."""
    image = image_from_array(np.zeros(SHAPE, np.float32), (1.0, 1.0, 3.0))
    found = Uncertainty(CaseTransform.fit(image, data), data)
    for index in range(probabilities.shape[axis + 1]):
        found.add(axis, index, probabilities.take(index, axis + 1))
    return found


def drawn(outputs: int) -> np.ndarray:
    whole = np.random.default_rng(0).dirichlet(np.full(outputs, 0.4), (4, 6, 5))
    return whole.transpose(3, 0, 1, 2).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_give_what_the_whole_gives(axis: int) -> None:
    data, probabilities = data_plan(), drawn(3)
    found = collected(probabilities, data, axis)
    entropy = -(probabilities * np.log(probabilities)).sum(axis=0) / np.log(3)
    np.testing.assert_allclose(found.entropy, 100 * entropy.transpose(1, 2, 0), atol=0.51)
    labels = decide(probabilities, data)
    each = [probabilities[k][labels == k].mean() for k in (1, 2)]
    assert found.confidence == pytest.approx(np.mean(each), rel=1e-5)


def test_overlapping_regions_count_each_for_itself() -> None:
    labels = tuple(Label(name=name, value=value) for name, value in (("background", 0), ("edge", 1), ("core", 2)))
    regions = (
        Region(name="whole", values=(1, 2), writes=1),
        Region(name="core", values=(2,), writes=2),
    )
    data = data_plan(labels=labels, regions=regions)
    probabilities = drawn(3)[:2]
    found = collected(probabilities, data)
    p = probabilities.astype(float)
    entropy = -(p * np.log(p) + (1 - p) * np.log(1 - p)).sum(axis=0) / (2 * np.log(2))
    np.testing.assert_allclose(found.entropy, 100 * entropy.transpose(1, 2, 0), atol=0.51)
    masks = p > 0.5
    each = [p[region][masks[region]].mean() for region in (0, 1)]
    assert found.confidence == pytest.approx(np.mean(each), rel=1e-5)


def test_the_ends_of_both_scales() -> None:
    data = data_plan()
    sure = np.eye(3, dtype=np.float32)[np.random.default_rng(1).integers(3, size=(4, 6, 5))].transpose(3, 0, 1, 2)
    found = collected(sure, data)
    assert not found.entropy.any() and found.confidence == 1
    assert (collected(np.full((3, 4, 6, 5), 1 / 3, np.float32), data).entropy == 100).all()
    nothing = np.zeros((3, 4, 6, 5), np.float32)
    nothing[0] = 1
    assert collected(nothing, data).confidence == 0
