"""Results of parallel work in the order of its items."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seg_transfer.util.in_order import in_order


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results wait."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def waiting(folder: Path) -> int:
    return sum(file.is_file() for file in folder.rglob("*"))


@pytest.mark.parametrize("seed", range(5))
def test_results_come_in_the_order_of_their_items(seed: int, folder: Path) -> None:
    items = [f"case {number}" for number in range(50)]
    order = np.random.default_rng(seed).permutation(len(items))
    found = list(in_order(((items[number], {"number": int(number)}) for number in order), items))
    assert found == [(item, {"number": number}) for number, item in enumerate(items)]
    assert not list(folder.iterdir())


def test_what_is_early_waits_on_disk_until_its_turn(folder: Path) -> None:
    items = [["a"], ["b"], ["c"], ["d"]]

    def results() -> Iterator[tuple[list[str], str]]:
        yield items[1], "one"
        yield items[3], "three"
        assert waiting(folder) == 2
        yield items[0], "zero"
        assert waiting(folder) == 1
        yield items[2], "two"

    assert [result for _, result in in_order(results(), items)] == ["zero", "one", "two", "three"]


def test_nothing_is_left_by_an_error(folder: Path) -> None:
    items = ["a", "b"]

    def results() -> Iterator[tuple[str, str]]:
        yield items[1], "early"
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        list(in_order(results(), items))
    assert not list(folder.iterdir())
