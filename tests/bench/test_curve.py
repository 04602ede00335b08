"""The learning curve of ``bench/curve.py``: which cases it trains on and scores, and its table of what is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import curve


def made_splits(shorter: int, longest: int) -> dict[str, Any]:
    names = [f"case_{number:03d}" for number in range(longest + 10)]
    few = {str(size): names[:size] for size in (5, shorter, longest)}
    return {"test": names[longest:], "few_shot": few}


def test_what_is_scored_is_never_trained_on_and_the_test_cases_are_for_a_release() -> None:
    splits = made_splits(80, 160)
    trained, scored = curve.case_lists(splits, ("5", "160"), release=False)
    assert [len(train) for train in trained] == [5, 120]
    assert scored == [f"case_{number:03d}" for number in range(80, 120)]
    assert not set(scored) & (set(trained[1]) | set(splits["test"]))
    assert not set(trained[1]) & set(splits["test"])
    assert set(trained[0]) < set(trained[1])
    trained, scored = curve.case_lists(splits, ("5", "160"), release=True)
    assert [len(train) for train in trained] == [5, 160]
    assert scored == splits["test"]


def test_runs_are_named_by_what_they_train_on(tmp_path: Path) -> None:
    made = {run.name: run for run, _ in curve.runs(tmp_path, 5, release=False)}
    assert len(made) == 33
    assert next(iter(made)) == "hippocampus-5-planned-5min"
    assert made["hippocampus-120-planned-5min"].options == {"time_budget": 300}
    assert made["cells-110-scratch-5min"].options == {"time_budget": 300, "strategy": "scratch"}
    for run in made.values():
        assert len(run.test) == (5 if "abdomen" in run.name else 40) and not set(run.test) & set(run.train)
    assert {name for name in made if "abdomen" in name} == {
        f"abdomen_mr-5-{method}-5min" for method in ("planned", "scratch", "nnunet")
    }
    assert "hippocampus-160-nnunet-0.5min" in {run.name for run, _ in curve.runs(tmp_path, 0.5, release=True)}


def result(name: str, cases: int, seed: int, dice: float, steps: int) -> dict[str, str]:
    figures = {"seed": seed, "train_cases": cases, "steps": steps, "training_seconds": 300.2}
    texts = {column: str(figure) for column, figure in figures.items()}
    dice_text = f"a={dice + 0.1}; b={dice - 0.1}"
    return {"name": name, **texts, "configuration": "3d", "strategy": "gradual", "dice": dice_text}


def test_a_table_and_a_figure_of_what_is_there(tmp_path: Path) -> None:
    results = [
        result("hippocampus-20-planned-5min", 20, 0, 0.85, 900),
        result("hippocampus-5-planned-5min", 5, 0, 0.80, 1000),
        result("hippocampus-5-planned-5min", 5, 1, 0.82, 1010),
        result("hippocampus-5-nnunet-5min", 5, 0, 0.61, 95),
        result("cells-5-scratch-5min", 5, 0, 0.9, 2000),
    ]
    lines = curve.curve_table(results).splitlines()
    assert lines[0].count("|") == lines[1].count("|")
    assert lines[2:] == [
        "| cells | 5 | 0/1/0 | – | 0.900 | – | – | –/2000/– | –/300/– |",
        "| hippocampus | 5 | 2/0/1 | 0.810 | – | 0.610 | 3d gradual | 1005/–/95 | 300/–/300 |",
        "| hippocampus | 20 | 1/0/0 | 0.850 | – | – | 3d gradual | 900/–/– | 300/–/– |",
    ]
    figure = tmp_path / "curve.png"
    curve.draw_curve(figure, results)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_iterations_are_spread_over_epochs() -> None:
    from nnunet import spread

    assert spread(1) == (1, 1)
    assert spread(50) == (50, 1)
    assert spread(73) == (36, 2)
    assert spread(12_000) == (50, 240)
    for iterations in range(1, 3000):
        epochs, each = spread(iterations)
        assert epochs <= 50
        assert abs(epochs * each - iterations) <= max(1, iterations / 50)


def test_calibration_goes_on_until_it_tells_something() -> None:
    from nnunet import calibrate

    class Made:
        asked: list[tuple[int, int]] = []  # noqa: RUF012

        def train(self, epochs: int, iterations: int) -> list[float]:
            self.asked.append((epochs, iterations))
            return [100.0, 0.5 * iterations]

    assert calibrate(Made(), 300) == 0.5
    assert Made.asked == [(2, 3), (2, 72)]
