"""The regret of ``bench/regret.py``: rotated over draws, so that a perfect choice has none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import regret
import regret_figure
import regret_table
from rows import append_rows, pairs_text


def add_run(
    folder: Path,
    size: int,
    strategy: str,
    draw: int,
    dice: dict[str, dict[str, float]],
    test_dice: dict[str, dict[str, float]] | None = None,
    dataset: str = "made",
) -> None:
    key = {"dataset": dataset, "size": size, "strategy": strategy, "draw": draw}
    append_rows(folder / regret_table.RUNS, regret.RUN_COLUMNS, [key])
    for file, cases in ((regret_table.CASES, dice), (regret_table.TEST_CASES, test_dice or {})):
        rows: Iterable[dict[str, object]] = ({**key, "case": c, "dice": pairs_text(d)} for c, d in cases.items())
        append_rows(folder / file, regret.CASE_COLUMNS, rows)


def remove_draw(folder: Path, strategy: str, draw: int) -> None:
    path = folder / regret_table.CASES
    kept = [line for line in path.read_text().splitlines() if f",{strategy},{draw}," not in line]
    path.write_text("\n".join(kept) + "\n")


def test_the_best_is_found_on_the_other_draws() -> None:
    dice = {"a": [0.9, 0.5, 0.7], "b": [0.6, 0.8, 0.6]}
    # others of draw 0: a 0.6, b 0.7 -> b; of draw 1: a 0.8 -> a; of draw 2: a 0.7, b 0.7 -> a
    always_a = regret_table.regret(dice, [{"a": 1.0}] * 3, [0, 1, 2])
    assert always_a == pytest.approx(((0.6 - 0.9) + 0 + 0) / 3)
    always_b = regret_table.regret(dice, [{"b": 1.0}] * 3, [0, 1, 2])
    assert always_b == pytest.approx((0 + (0.5 - 0.8) + (0.7 - 0.6)) / 3)
    half = regret_table.regret(dice, [{"a": 0.5, "b": 0.5}] * 3, [0, 1, 2])
    assert half == pytest.approx((always_a + always_b) / 2)


def test_a_draw_is_never_judged_by_a_copy_of_itself() -> None:
    dice = {"a": [1.0, 1.0, 0.0], "b": [0.0, 0.0, 1.0]}
    # of both copies of draw 0 the only other draw is 2, where b is best
    assert regret_table.regret(dice, [{"b": 1.0}] * 3, [0, 0, 2]) == pytest.approx((0 + 0 + (0 - 1)) / 3)
    assert np.isnan(regret_table.regret(dice, [{"b": 1.0}] * 3, [1, 1, 1]))


def test_among_equal_strategies_every_choice_has_no_regret_where_the_naive_one_has() -> None:
    random = np.random.default_rng(0)
    strategies = [str(index) for index in range(6)]
    found, naive = [], []
    for _ in range(400):
        dice = {strategy: random.normal(0.8, 0.02, 3).tolist() for strategy in strategies}
        found.append(regret_table.regret(dice, [{"0": 1.0}] * 3, [0, 1, 2]))
        naive.append(np.mean(np.max(list(dice.values()), axis=0) - dice["0"]))
    assert abs(np.mean(found)) < 0.003
    assert np.mean(naive) > 0.02


def test_a_table_of_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regret_table, "BOOTSTRAPS", 200)
    for draw in range(3):
        for strategy, mean in (("good", 0.8), ("scratch", 0.7)):
            dice = {f"case{case}": {"a": mean + 0.02 * case, "b": mean} for case in range(4)}
            add_run(tmp_path, 5, strategy, draw, dice, {"x": {"a": mean - 0.5}})
    planned = {"segtl's": {"made-5": {0: "good", 1: "good", 2: "scratch"}}}
    text = regret_table.regret_table(tmp_path, ["good", "scratch"], planned, release=False)
    assert "| made-5 | 3/3 | 0.815 | 0.715 |" in text
    assert "| always good | 0.00 (0.00 to 0.00) | -10.00 (-10.00 to -10.00) |" in text
    assert "| always scratch | 10.00 (10.00 to 10.00) | 0.00 (0.00 to 0.00) |" in text
    assert "| segtl's | 3.33 (0.00 to 6.67) | -6.67 (-10.00 to 0.00) |" in text
    assert "| a random one | 5.00 (5.00 to 5.00) | -5.00 (-5.00 to -5.00) |" in text
    assert "| good | 3.33 (0.00 to 10.00) |" in text
    assert "| scratch | -6.67 (-10.00 to 0.00) |" in text
    assert "| made-5 | case3 | 0.830 | 0.730 |" in text
    assert "| made-5 | 3/3 | 0.300 | 0.200 |" in regret_table.regret_table(
        tmp_path, ["good", "scratch"], planned, release=True
    )
    other = planned | {"another": {"made-5": {0: "good", 1: "good", 2: "partial"}}}
    assert "no trial yet" in regret_table.regret_table(tmp_path, ["good", "scratch"], other, release=False)
    regret_figure.draw_gains(tmp_path / "gains.png", tmp_path, ["good", "scratch"], release=False)
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    remove_draw(tmp_path, "scratch", 1)
    remove_draw(tmp_path, "scratch", 2)
    assert "no trial yet" in regret_table.regret_table(tmp_path, ["good", "scratch"], planned, release=False)


def test_trials_come_in_the_order_of_their_sizes(tmp_path: Path) -> None:
    for dataset, size in (("b", 5), ("a", 160), ("a", 5), ("a", 20)):
        add_run(tmp_path, size, "scratch", 0, {"case": {"label": 0.5}}, dataset=dataset)
    assert list(regret_table.load_trials(tmp_path, release=False)) == ["a-5", "a-20", "a-160", "b-5"]


def test_both_eyes_of_a_person_are_drawn_together(tmp_path: Path) -> None:
    dice = {"1L": 0.4, "1R": 0.6, "2L": 0.6, "2R": 0.8}
    for draw in range(2):
        for strategy, gain in (("good", 1), ("scratch", 0)):
            scored = {f"retina_{eye}": {"label": value * gain} for eye, value in dice.items()}
            add_run(tmp_path, 5, strategy, draw, scored)
    trials = regret_table.load_trials(tmp_path, release=False)
    # of persons there are only three resamples: means 0.5, 0.6 and 0.7 of a draw; of four eyes down to 0.4
    found = regret_table.harms(trials, lambda name, draw: {"good": 1.0})
    assert found == pytest.approx((-0.6, -0.7, -0.5))


def test_a_patient_counts_alike_in_all_draws_and_sizes_of_a_data_set(tmp_path: Path) -> None:
    """Fifty figures of two patients are no more than two."""
    for size in (5, 20):
        for draw in range(3):
            for strategy, gain in (("good", 0.1), ("scratch", 0.0)):
                dice = {"one": {"label": 0.5 + gain}, "two": {"label": 0.5 - gain}}
                add_run(tmp_path, size, strategy, draw, dice)
    trials = regret_table.load_trials(tmp_path, release=False)
    found = regret_table.harms(trials, lambda name, draw: {"good": 1.0})
    assert found == pytest.approx((0, -0.1, 0.1))


def test_cases_are_told_one_by_one_where_they_are_few_and_the_same(tmp_path: Path) -> None:
    for draw, cases in ((0, ("one", "two")), (1, ("one", "three"))):
        for strategy in ("good", "scratch"):
            add_run(tmp_path, 5, strategy, draw, {case: {"label": 0.5} for case in cases})
    assert "| always good |" in (text := regret_table.regret_table(tmp_path, ["good", "scratch"], {}, release=False))
    assert "| trial | case |" not in text


def test_draws_are_of_whole_patients() -> None:
    cases = [f"retina_{number:02d}{eye}" for number in range(8) for eye in "LR"]
    drawn = regret.draw(cases, 8, 0)
    assert len(drawn) == 8
    assert all((case[:-1] + other) in drawn for case in drawn for other in "LR")
    assert regret.draw(cases, 8, 0) == drawn != regret.draw(cases, 8, 1)
    assert regret.draw(["b", "a"], 2, 0) == ["a", "b"]


def test_runs_of_a_draw_with_different_normalization_are_refused(tmp_path: Path) -> None:
    for strategy, how in (("good", "zscore"), ("scratch", "minmax")):
        row = {"dataset": "made", "size": 5, "strategy": strategy, "draw": 0, "normalization": how}
        append_rows(tmp_path / regret_table.RUNS, regret.RUN_COLUMNS, [row])
    with pytest.raises(SystemExit, match="made 5 0: some strategies are normalized by minmax"):
        regret_table.load_trials(tmp_path, release=False)


def test_the_latest_choice_of_the_planner_counts(tmp_path: Path) -> None:
    for strategy, commit in (("frozen", "a1"), ("gradual", "b2")):
        row = {"dataset": "made", "size": 5, "draw": 1, "strategy": strategy, "commit": commit}
        append_rows(tmp_path / regret_table.CHOICES, regret.CHOICE_COLUMNS, [row])
    assert regret_table.last_choices(tmp_path) == {"made-5": {1: "gradual"}}
