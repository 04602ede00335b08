"""Scores of one label, liver, without label maps."""

from __future__ import annotations

import math
from collections.abc import Mapping

from seg_transfer.evaluation.scores import LabelScore, Scores


def scores(dice: Mapping[str, float]) -> Scores:
    """Case -> Dice; nan where the label is in neither map."""
    cases = {}
    for case, value in dice.items():
        voxels = 0 if math.isnan(value) else 1
        score = LabelScore(
            dice=value,
            iou=value,
            hd95=0,
            nsd=1,
            volume_difference=0,
            relative_volume_difference=0,
            prediction_voxels=voxels,
            reference_voxels=voxels,
        )
        cases[case] = {"liver": score}
    return Scores(unit="mm", tolerance=1, labels={"liver": 1}, cases=cases)
