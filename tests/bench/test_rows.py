"""Results as CSV: rows are appended, found again."""

from __future__ import annotations

from pathlib import Path

from rows import append_rows, figures_of, find_row, pairs_text, read_rows


def test_rows_are_appended_and_found(tmp_path: Path) -> None:
    path = tmp_path / "results" / "study.csv"
    assert read_rows(path) == [] and find_row(path, name="a") is None
    append_rows(path, ("name", "seed", "dice"), [{"name": "a", "seed": 0, "dice": pairs_text({"x": 0.5, "y": 0.25})}])
    append_rows(path, ("name", "seed", "dice"), [{"name": "a, b", "seed": 1}])
    assert path.read_text(encoding="utf-8") == 'name,seed,dice\na,0,x=0.5; y=0.25\n"a, b",1,\n'
    assert find_row(path, name="a, b", seed=1) == {"name": "a, b", "seed": "1", "dice": ""}
    assert find_row(path, name="a", seed=1) is None


def test_figures_come_back() -> None:
    assert figures_of(pairs_text({"left kidney": 0.5, "liver": 1e-05})) == {"left kidney": 0.5, "liver": 1e-05}
    assert figures_of("") == {}
