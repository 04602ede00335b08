"""Data sets of one or two cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_balls import LOCAL, QUICK, make_dataset

import seg_transfer


@pytest.mark.parametrize(("count", "held_out"), [(1, 1), (2, 1)])
def test_one_or_two_cases_go_the_whole_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, held_out: int
) -> None:
    data, work = make_dataset(tmp_path / "data", cases=count), tmp_path / "work"
    options = QUICK | {"folds": 5, "time_budget": None, "epochs": 1}
    made = seg_transfer.plan(data, work=work, **options, **LOCAL)
    assert ("one case (or group) only" if count == 1 else "2 folds instead of 5") in caplog.text
    assert [len(split.validation) for split in made.recipe.splits] == [held_out] * count
    path = work / "plan.json"
    content = json.loads(path.read_text())
    content["recipe"] |= {"steps_per_epoch": 2, "batch_size": 4}  # more samples than cases
    path.write_text(json.dumps(content))
    runs = seg_transfer.train("cv", work=work, **LOCAL)
    assert len(runs) == count
    for run in runs:
        assert run.scores is not None and len(run.scores.cases) == held_out and not run.scores.failures
        assert {"overlay.png", "scores.csv", "scores.json"} <= {
            file.name for file in (run.folder / "validation").iterdir()
        }
