"""`segtl inspect`: one case among the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_balls import LOCAL, QUICK, make_dataset
from made_work import add_run, ball_plan
from PIL import Image as Pillow

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.workflow.work_folder import WorkFolder


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    """Six cases; the label of case_5 is eight times as large as that of the others."""
    folder = tmp_path_factory.mktemp("inspect")
    data = make_dataset(folder / "data", cases=6)
    seg_transfer.plan(data, work=folder / "work", **QUICK, **LOCAL)
    return WorkFolder(folder / "work")


def worse(labels: np.ndarray) -> None:
    """Predict nothing of the core, and of larger images nothing at all."""
    labels[labels == 4] = 1
    if labels.shape[0] > 23:
        labels[:] = 0


def test_a_case_before_training(planned: WorkFolder) -> None:
    report = seg_transfer.inspect("case_5", work=planned.path)
    places = {place.what: place for place in report.figures}
    assert (places["size x (voxels)"].value, places["size x (voxels)"].rank) == (25, 6)
    assert (places["size x (voxels)"].lowest, places["size x (voxels)"].median) == (20, 22.5)
    assert places["spacing z (mm)"].rank == 1
    assert {"MRI: mean", "ball: volume (ml)", "core: volume (ml)"} <= places.keys()
    assert report.scores == []
    assert report.fragments == {"ball": 1, "core": 1}
    assert report.overlay == planned.path / "inspect" / "case_5.png"
    assert Pillow.open(report.overlay).size[0] > 500


def test_a_case_with_scores(planned: WorkFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Dataset.load(planned.dataset)
    before = planned.plan.read_bytes()
    try:
        add_run(planned, ball_plan(dataset, "2d"), predict=worse)
        assert main(["inspect", "case_4", "-w", str(planned.path), "-o", str(tmp_path / "x.png"), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["fold"] == 0
        (scores,) = report["scores"]
        assert scores["mean_dice"] | {"median": 0} == {
            "what": "mean Dice",
            "value": 0.0,
            "rank": 1,
            "cases": 6,
            "lowest": 0.0,
            "median": 0,
            "highest": pytest.approx(scores["mean_dice"]["highest"]),
        }
        assert scores["labels"]["core"]["dice"] == 0
        assert Pillow.open(tmp_path / "x.png").size[1] > 300
        assert main(["inspect", "case_0", "-w", str(planned.path), "-o", str(tmp_path / "y.png")]) == 0
        out = capsys.readouterr().out
        assert "case_0: held out by fold 0" in out
        assert "mean Dice" in out and "3 of 6" not in out.split("mean Dice")[0]
    finally:
        planned.plan.write_bytes(before)


def test_an_unknown_case_is_refused(planned: WorkFolder) -> None:
    with pytest.raises(UserError, match="no such case: case_9"):
        seg_transfer.inspect("case_9", work=planned.path)


def test_without_a_plan_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="segtl plan DATASET"):
        seg_transfer.inspect("case_0", work=tmp_path)
