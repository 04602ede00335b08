"""What each strategy gains over scratch in each trial of ``bench/regret.py``, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from regret_table import POINTS, harms, load_trials, whole

from seg_transfer.files import whole_file

COLOURS = ("#2e6fc1", "#8e5aa8", "#3c8c4a", "#c1432e", "#b5892c")


def draw_gains(path: Path, folder: Path, strategies: Sequence[str], *, release: bool) -> None:
    """A group of points per trial, with 95 % intervals over draws and patients; whole trials only.

    Args:
        path: A .png file.
        folder: Of the cells.
        strategies: All of them, ``scratch`` among them.
        release: On the test cases.
    """
    trials = whole(load_trials(folder, release=release), len(strategies))
    others = [strategy for strategy in strategies if strategy != "scratch"]
    figure = Figure(figsize=(2.5 + 1.5 * len(trials), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (strategy, colour) in enumerate(zip(others, COLOURS, strict=False)):
        places, gains, below, above = [], [], [], []
        for position, (name, trial) in enumerate(trials.items()):
            harm, low, high = harms({name: trial}, lambda _, __, strategy=strategy: {strategy: 1.0})
            places.append(position + 0.14 * (index - (len(others) - 1) / 2))
            gains.append(-POINTS * harm)
            below.append(POINTS * max(high - harm, 0))
            above.append(POINTS * max(harm - low, 0))
        axes.errorbar(places, gains, (below, above), fmt="o", color=colour, capsize=2, markersize=5, label=strategy)
    axes.axhline(0, color="black", linewidth=1)
    axes.set_xticks(range(len(trials)), [f"{name}\n{_draws(trial)} draws" for name, trial in trials.items()])
    axes.set_ylabel("Dice above scratch, points (95 % interval)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draws(trial: dict[str, dict[int, dict[str, float]]]) -> int:
    return len(next(iter(trial.values())))
