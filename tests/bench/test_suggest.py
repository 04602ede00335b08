"""The orders of ``bench/suggest.py``: what they choose from, and what the table compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import suggest
from runner import lists_of


def test_the_farthest_case_comes_first() -> None:
    """On a line, one labelled case at 0: the far end, then the middle of the largest gap."""
    places = np.array([[0.0], [1.0], [2.0], [5.0], [9.0], [10.0]])
    constant = np.ones_like(places)
    assert suggest.farthest_first(np.hstack([places, constant]), 1, 3) == [5, 3, 2]
    assert suggest.farthest_first(1000 * places, 2, 1) == [5]


def test_what_is_scored_is_never_added_and_no_test_case_is_touched() -> None:
    for setting in suggest.SETTINGS:
        draw = suggest.Draw(setting, Path("data"), Path("work"), 0, 6)
        other = suggest.Draw(setting, Path("data"), Path("work"), 1, 6)
        pool = {*draw.start, *draw.others}
        assert not pool & set(draw.scored) and not pool & set(lists_of(setting.dataset)["test"])
        assert len(draw.scored) == 40 and len(draw.start) == 5 and draw.start != other.start
        assert draw.added("random") == draw.others[:10]


def test_differences_are_those_of_the_same_draw() -> None:
    rows = [
        {"name": f"cells-unet-{order}-300steps", "seed": str(seed), "dice": f"a={dice}; b={dice}"}
        for order, figures in {"random": (0.5, 0.7), "diverse": (0.51, 0.72), "uncertain": (0.6,)}.items()
        for seed, dice in enumerate(figures)
    ]
    *_, diverse, uncertain = suggest.table(rows).splitlines()
    assert diverse == "| cells | unet 300steps | diverse | 2 | 0.6150 | +1.50 | -4.85 to +7.85 |"
    assert uncertain == "| cells | unet 300steps | uncertain | 1 | 0.6000 | +10.00 | – |"
