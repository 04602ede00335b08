"""The largest component, and when keeping only it counts as help."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from seg_transfer.evaluation.largest_component import find_postprocessing
from seg_transfer.inference.postprocess import postprocess
from seg_transfer.planning.model_file import NOTHING, Postprocessing

SHAPE = (12, 12, 12)


def blocks(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Label map with a cube per ``(value, start x, start y, side)``, all from z = 1."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, x, y, side in boxes:
        labels[x : x + side, y : y + side, 1 : 1 + side] = value
    return labels


def test_only_the_largest_component_stays() -> None:
    labels = blocks((1, 1, 1, 3), (1, 7, 7, 2), (4, 8, 1, 3))
    np.testing.assert_array_equal(
        postprocess(labels.copy(), Postprocessing(labels=(1,))), blocks((1, 1, 1, 3), (4, 8, 1, 3))
    )
    np.testing.assert_array_equal(postprocess(labels.copy(), NOTHING), labels)
    np.testing.assert_array_equal(postprocess(labels.copy(), Postprocessing(labels=(9,))), labels)


def test_the_foreground_is_one_whatever_its_labels() -> None:
    labels = blocks((1, 1, 1, 3), (4, 4, 1, 3), (1, 8, 8, 3))
    found = postprocess(labels.copy(), Postprocessing(foreground=True))
    np.testing.assert_array_equal(found, blocks((1, 1, 1, 3), (4, 4, 1, 3)))


def test_corners_connect() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = 1
    found = postprocess(labels, Postprocessing(labels=(1,)))
    assert found.sum() == 2 and not found[3, 3, 3]


def files(folder: Path, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[Path, Path]]:
    found = {}
    for number, pair in enumerate(pairs):
        paths = tuple(folder / f"{kind}_{number}.nii.gz" for kind in ("prediction", "reference"))
        for path, labels in zip(paths, pair, strict=True):
            nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), path)
        found[f"case_{number}"] = paths
    return found  # type: ignore[return-value]


LABELS = {"a": 1, "b": 2}
SCORED = {"a": (1,), "b": (2,)}
TRUE = blocks((1, 1, 1, 3), (2, 7, 7, 3))
CRUMB = blocks((1, 1, 1, 3), (2, 7, 7, 3), (1, 1, 9, 2))
TWO = blocks((1, 1, 1, 3), (1, 1, 8, 2), (2, 7, 7, 3))
"""A label of two parts, which must not lose one."""


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ([(CRUMB, TRUE)] * 6, (1,)),
        ([(CRUMB, TRUE)] * 4, ()),  # too few cases
        ([(CRUMB, TRUE)] * 2 + [(TRUE, TRUE)] * 8, ()),  # a fifth of the means of cases drawn anew would not gain
        ([(CRUMB, TRUE)] * 6 + [(TWO, TWO)] * 6, ()),  # as many lose
        ([(CRUMB, TRUE)] * 11 + [(TWO, TWO)], (1,)),
    ],
    ids=["all gain", "few cases", "few gain", "half lose", "one loses"],
)
def test_a_step_is_kept_where_it_helps_by_more_than_chance(
    tmp_path: Path, pairs: list[tuple[np.ndarray, np.ndarray]], kept: tuple[int, ...]
) -> None:
    """The whole foreground has two parts here, so that only labels by themselves can be cleaned."""
    outcome = find_postprocessing(files(tmp_path, pairs), labels=LABELS, scored=SCORED)
    assert outcome.postprocessing == Postprocessing(labels=kept)
    trials = {trial.what: trial for trial in outcome.trials}
    assert list(trials) == ["foreground", "a", "b"]
    assert trials["foreground"].after < trials["foreground"].before and not trials["foreground"].kept
    assert trials["b"].changed == 0 and trials["b"].before == trials["b"].after == 1
    assert trials["a"].changed == sum(prediction is not TRUE for prediction, _ in pairs)
    dice = 2 * 27 / (27 + 27 + 8)
    expected = np.mean([dice if prediction is CRUMB else 1 for prediction, _ in pairs])
    assert trials["a"].before == pytest.approx(expected)
    assert outcome.dice == {"a": pytest.approx(trials["a"].after if kept else expected), "b": 1.0}


def test_regions_count_for_the_labels_they_consist_of(tmp_path: Path) -> None:
    regions = {"whole": (1, 2), "core": (2,)}
    outcome = find_postprocessing(files(tmp_path, [(CRUMB, TRUE)] * 6), labels=LABELS, scored=regions)
    trials = {trial.what: trial for trial in outcome.trials}
    assert trials["a"].kept and trials["a"].before == pytest.approx(2 * 54 / (54 + 54 + 8)) and trials["a"].after == 1
    assert outcome.dice == {"whole": 1.0, "core": 1.0}


def test_a_label_that_no_case_has_is_left_alone(tmp_path: Path) -> None:
    only = blocks((1, 1, 1, 3))
    outcome = find_postprocessing(files(tmp_path, [(only, only)] * 6), labels=LABELS, scored=SCORED)
    assert outcome.postprocessing == NOTHING
    assert outcome.trials[2].cases == 0 and np.isnan(outcome.dice["b"])
