"""The regret of ``bench/regret.py``: rotated over draws, so that a perfect choice has none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = str(Path(__file__).resolve().parents[2] / "bench")


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "path", [BENCH, *sys.path])
    import regret_table

    return regret_table


def test_the_best_is_found_on_the_other_draws(table) -> None:  # type: ignore[no-untyped-def]
    dice = {"a": [0.9, 0.5, 0.7], "b": [0.6, 0.8, 0.6]}
    # others of draw 0: a 0.6, b 0.7 -> b; of draw 1: a 0.8 -> a; of draw 2: a 0.7, b 0.7 -> a
    always_a = table.regret(dice, [{"a": 1.0}] * 3, [0, 1, 2])
    assert always_a == pytest.approx(((0.6 - 0.9) + 0 + 0) / 3)
    always_b = table.regret(dice, [{"b": 1.0}] * 3, [0, 1, 2])
    assert always_b == pytest.approx((0 + (0.5 - 0.8) + (0.7 - 0.6)) / 3)
    half = table.regret(dice, [{"a": 0.5, "b": 0.5}] * 3, [0, 1, 2])
    assert half == pytest.approx((always_a + always_b) / 2)


def test_a_draw_is_never_judged_by_a_copy_of_itself(table) -> None:  # type: ignore[no-untyped-def]
    dice = {"a": [1.0, 1.0, 0.0], "b": [0.0, 0.0, 1.0]}
    # of both copies of draw 0 the only other draw is 2, where b is best
    assert table.regret(dice, [{"b": 1.0}] * 3, [0, 0, 2]) == pytest.approx((0 + 0 + (0 - 1)) / 3)
    assert np.isnan(table.regret(dice, [{"b": 1.0}] * 3, [1, 1, 1]))


def test_among_equal_strategies_every_choice_has_no_regret_where_the_naive_one_has(table) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    strategies = [str(index) for index in range(6)]
    found, naive = [], []
    for _ in range(400):
        dice = {strategy: random.normal(0.8, 0.02, 3).tolist() for strategy in strategies}
        found.append(table.regret(dice, [{"0": 1.0}] * 3, [0, 1, 2]))
        naive.append(np.mean(np.max(list(dice.values()), axis=0) - dice["0"]))
    assert abs(np.mean(found)) < 0.003
    assert np.mean(naive) > 0.02


def test_a_table_of_what_is_there(table, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "test").mkdir()
    for draw in range(3):
        for strategy, level in (("good", 0.8), ("scratch", 0.7)):
            cell = {"dataset": "made", "size": 5, "strategy": strategy, "draw": draw}
            cell["dice"] = {f"case{case}": {"a": level + 0.02 * case, "b": level} for case in range(4)}
            (tmp_path / f"made-5-{strategy}-draw{draw}.json").write_text(json.dumps(cell))
            (tmp_path / "test" / f"made-5-{strategy}-draw{draw}.json").write_text(json.dumps({"x": {"a": level - 0.5}}))
    planned = {"segtl's": {"made-5": {0: "good", 1: "good", 2: "scratch"}}}
    text = table.regret_table(tmp_path, ["good", "scratch"], planned, release=False)
    assert "| made-5 | 3/3 | 0.815 | 0.715 |" in text
    assert "| always good | 0.00 (0.00 to 0.00) | -10.00 (-10.00 to -10.00) |" in text
    assert "| always scratch | 10.00 (10.00 to 10.00) | 0.00 (0.00 to 0.00) |" in text
    assert "| segtl's | 3.33 (0.00 to 6.67) | -6.67 (-10.00 to 0.00) |" in text
    assert "| a random one | 5.00 (5.00 to 5.00) | -5.00 (-5.00 to -5.00) |" in text
    assert "| made-5 | 3/3 | 0.300 | 0.200 |" in table.regret_table(
        tmp_path, ["good", "scratch"], planned, release=True
    )
    other = planned | {"another": {"made-5": {0: "good", 1: "good", 2: "partial"}}}
    assert "no trial yet" in table.regret_table(tmp_path, ["good", "scratch"], other, release=False)
    (tmp_path / "made-5-scratch-draw1.json").unlink()
    (tmp_path / "made-5-scratch-draw2.json").unlink()
    assert "no trial yet" in table.regret_table(tmp_path, ["good", "scratch"], planned, release=False)


def test_draws_are_of_whole_patients(table) -> None:  # type: ignore[no-untyped-def]
    from regret import draw

    cases = [f"retina_{number:02d}{eye}" for number in range(8) for eye in "LR"]
    drawn = draw(cases, 8, 0, r"retina_(\d+)")
    assert len(drawn) == 8
    assert all((case[:-1] + other) in drawn for case in drawn for other in "LR")
    assert draw(cases, 8, 0, r"retina_(\d+)") == drawn != draw(cases, 8, 1, r"retina_(\d+)")
    assert draw(["b", "a"], 2, 0, None) == ["a", "b"]
