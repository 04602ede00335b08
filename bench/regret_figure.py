"""What each strategy gains over scratch in each trial of ``bench/regret.py``, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from regret_table import POINTS, dataset_of, gain, load_trials

from seg_transfer.util.files import whole_file

COLOURS = ("#2e6fc1", "#8e5aa8", "#3c8c4a", "#c1432e", "#b5892c")


def draw_gains(path: Path, folder: Path, strategies: Sequence[str], *, release: bool) -> None:
    """A panel with its own scale per data set, a group of points per trial; 95 % intervals over cases.

    Args:
        path: A .png file.
        folder: Of the results.
        strategies: All of them, ``scratch`` among them.
        release: On the test cases.
    """
    trials = load_trials(folder, release=release)
    others = [strategy for strategy in strategies if strategy != "scratch"]
    panels = {name: [t for t in trials if dataset_of(t) == name] for name in dict.fromkeys(map(dataset_of, trials))}
    figure = Figure(figsize=(1.5 * len(trials) + 0.6 * len(panels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    widths = [len(names) + 0.4 for names in panels.values()]
    row = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for axes, (dataset, names) in zip(row, panels.items(), strict=True):
        for index, (strategy, colour) in enumerate(zip(others, COLOURS, strict=False)):
            gained = {place: gain(trials[name], strategy) for place, name in enumerate(names)}
            found = {place + 0.14 * (index - (len(others) - 1) / 2): each for place, each in gained.items() if each}
            means, low, high = (POINTS * np.array(list(found.values())).reshape(-1, 3)).T
            whiskers = (means - low, high - means)
            axes.errorbar(list(found), means, whiskers, fmt="o", color=colour, capsize=2, markersize=5, label=strategy)
        axes.axhline(0, color="black", linewidth=1)
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_xticks(range(len(names)), [name.rsplit("-", 1)[1] for name in names])
        axes.set_xlabel("training cases")
        axes.set_title(dataset, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
    row[0].set_ylabel("Dice above scratch (0), points, 95 % interval")
    figure.suptitle("What each strategy gains over training from scratch; mind each panel's own scale", fontsize=10)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(others), fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
