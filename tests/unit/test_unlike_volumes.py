"""Predicted labels that are missing, or far smaller or larger than in the training cases, are noticed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_plans import data_plan, model_plan, plan
from scipy import stats

from seg_transfer.data.description import Region, object_regions
from seg_transfer.data.geometry import Grid
from seg_transfer.planning.data_plan import DataPlan, Label
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.rules.training_images import training_images
from seg_transfer.planning.training_images import Spread, TrainingImages
from seg_transfer.planning.unlike_volumes import unlike_volumes

PLANS = Path(__file__).resolve().parents[2] / "plans"
GRID = Grid(shape=(40, 20, 20), affine=np.diag([2.0, 2.0, 2.5, 1.0]))  # a voxel is 0.01 ml
LABELS = ("a", "b")


def known(volumes: Sequence[Sequence[float]], cases: int) -> TrainingImages:
    """Training cases that hold each label with these volumes in ml."""
    of_images = {"spacing": (), "size": (), "channels": (), "orientations": ("RAS",)}
    labels = []
    for name, held in zip(LABELS, volumes, strict=True):
        logs = np.log(held) if len(held) else np.zeros(1)
        count = len(held)
        variance = (((logs - logs.mean()) ** 2).sum() + 4 * 0.5**2) / (count + 3) * (1 + 1 / max(count, 1))
        spread = Spread(mean=logs.mean(), std=max(0.5, variance**0.5), lowest=logs.min(), highest=logs.max())
        labels.append({"name": name, "cases": count, "volume": spread if count else None})
    return TrainingImages(cases=cases, degrees=cases + 3, labels=labels, **of_images)  # type: ignore[arg-type]


def planned(data: DataPlan, training: TrainingImages | None) -> Plan:
    return plan(data, model_plan("2d", (1, 32, 32))).model_copy(update={"training_images": training})


def with_voxels(*counts: int, values: Sequence[int] = (1, 2), dtype: str = "uint8") -> np.ndarray:
    """A label map with so many voxels of each value."""
    flat = np.zeros(GRID.shape, dtype).reshape(-1)
    first = 0
    for value, count in zip(values, counts, strict=True):
        flat[first : first + count] = value
        first += count
    return flat.reshape(GRID.shape)


TRAINING = known([[10.0] * 9, [2.0, 2.5, 3.0, 3.5]], cases=10)


def limits(label: int) -> tuple[float, float]:
    """In ml, by Student's t with a prior of four cases, for two labels."""
    of = TRAINING.labels[label]
    assert of.volume is not None
    reach = stats.t.ppf(1 - 1e-3 / 4, of.cases + 3) * of.volume.std
    return math.exp(of.volume.mean - reach), math.exp(of.volume.mean + reach)


def test_usual_volumes_are_not_told() -> None:
    assert unlike_volumes(with_voxels(1000, 300), GRID, planned(data_plan(), TRAINING)) == ()


@pytest.mark.parametrize("label", [0, 1])
def test_the_limits_are_those_of_a_further_case(label: int) -> None:
    made = planned(data_plan(), TRAINING)
    usual = [1000, 300]
    for limit, inwards in zip(limits(label), (1, -1), strict=True):
        for moved, told in ((1, False), (-1, True)):
            counts = usual.copy()
            counts[label] = round(limit * 100 * 1.1 ** (moved * inwards))
            found = unlike_volumes(with_voxels(*counts), GRID, made)
            low, high = limits(label)
            text = f"{LABELS[label]}: predicted volume in ml {counts[label] / 100:.3g}, "
            text += f"expected {low:.3g} to {high:.3g}"
            assert found == ((text,) if told else ())


def test_a_label_that_nearly_all_training_cases_hold_is_missed() -> None:
    made = planned(data_plan(), TRAINING)
    assert unlike_volumes(with_voxels(0, 0), GRID, made) == ("a is predicted nowhere; 9 of 10 training cases hold it",)


def test_few_cases_objects_and_plans_of_earlier_versions_say_nothing() -> None:
    nothing = with_voxels(0, 0)
    assert unlike_volumes(nothing, GRID, planned(data_plan(), None)) == ()
    before = TRAINING.model_copy(update={"labels": ()})
    assert unlike_volumes(nothing, GRID, planned(data_plan(), before)) == ()
    objects = data_plan(regions=object_regions("cell"))
    assert objects.instances and unlike_volumes(nothing, GRID, planned(objects, TRAINING)) == ()
    three = known([[10.0] * 3, []], cases=3)
    assert unlike_volumes(nothing, GRID, planned(data_plan(), three)) == ()


@pytest.mark.parametrize("values", [(-3, 40000), (7, 2**20)])
def test_any_values_and_orders_of_memory(values: tuple[int, int]) -> None:
    labels = [Label(name=name, value=value) for name, value in zip(("background", "a", "b"), (0, *values), strict=True)]
    made = planned(data_plan(labels=tuple(labels)), TRAINING)
    found = with_voxels(2, 300, values=values, dtype="int32")
    for array in (found, np.asfortranarray(found), found[::-1, :, ::-1]):
        (text,) = unlike_volumes(array, GRID, made)
        assert text.startswith("a: predicted volume in ml 0.02, expected")


def test_pixels_have_no_volume_but_may_be_missing() -> None:
    training = known([[], []], cases=10)
    labels = tuple(label.model_copy(update={"cases": 10}) for label in training.labels)
    made = planned(data_plan(), training.model_copy(update={"labels": labels}))
    assert unlike_volumes(with_voxels(1, 0), GRID, made) == ("b is predicted nowhere; 10 of 10 training cases hold it",)


def test_only_labels_that_regions_write_are_looked_for() -> None:
    regions = (Region(name="whole", values=(1, 2), writes=2),)
    made = planned(data_plan(regions=regions), known([[10.0] * 10] * 2, cases=10))
    assert unlike_volumes(with_voxels(0, 1000), GRID, made) == ()
    assert unlike_volumes(with_voxels(0, 0), GRID, made) == ("b is predicted nowhere; 10 of 10 training cases hold it",)


def test_the_planner_sums_up_the_volumes_of_a_real_data_set() -> None:
    made = Fingerprint.load(PLANS / "abdomen_mr.fingerprint.json")
    site = made.site()
    summed = training_images(site.images, 3, site.labels)
    stored = Plan.load(PLANS / "abdomen_mr.plan.json").training_images
    assert stored is not None and summed.labels == stored.labels
    for index, label in enumerate(summed.labels):
        logs = [math.log(case.labels[index].volume) for case in made.cases]
        assert label.cases == len(logs) == 14 and label.volume is not None
        assert label.volume.mean == pytest.approx(np.mean(logs), abs=1e-5)
        assert (label.volume.lowest, label.volume.highest) == pytest.approx((min(logs), max(logs)), abs=1e-5)


def test_only_labels_of_the_training_cases_are_compared() -> None:
    """As after an edit of the plan's labels."""
    labels = (Label(name="background", value=0), Label(name="a", value=1), Label(name="new", value=2))
    found = unlike_volumes(with_voxels(1, 1), GRID, planned(data_plan(labels=labels), TRAINING))
    assert [text.split(":")[0] for text in found] == ["a"]
