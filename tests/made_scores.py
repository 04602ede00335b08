"""Scores of one label, liver, without label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping

from seg_transfer.evaluation.scores import LabelScore, Scores


def scores(dice: Mapping[str, float]) -> Scores:
    """Case -> Dice; nan where the label is in neither map. Other metrics are undefined."""
    cases = {}
    for case, value in dice.items():
        voxels = 0 if math.isnan(value) else 1
        cases[case] = {"liver": LabelScore(metrics={"dice": value}, prediction_voxels=voxels, reference_voxels=voxels)}
    return Scores(unit="mm", tolerance=1, labels={"liver": 1}, cases=cases)
