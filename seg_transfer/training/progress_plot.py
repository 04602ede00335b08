"""``progress.png``: losses, Dice, learning rates and frozen stages over training time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from seg_transfer.training.history import Row, mean_dice
from seg_transfer.util.files import whole_file
from seg_transfer.util.units import seconds_text

STATES = {"frozen": "#9db7d5", "warming": "#f3d27a", "learning": "#d9825b"}
MOST_LABELS = 10


def draw_progress(path: Path, rows: Sequence[Row], *, title: str) -> None:
    """Draw at least one epoch over training time in minutes.

    Args:
        path: A .png file.
        rows: Finished epochs.
        title: First line of the title.
    """
    figure = Figure(figsize=(9, 11), layout="constrained")
    FigureCanvasAgg(figure)
    losses, dices, rates, stages = figure.subplots(4, 1, sharex=True, height_ratios=[3, 4, 3, 2])
    minutes = [row["seconds"] / 60 for row in rows]
    figure.suptitle(f"{title}\n{rows[-1]['step']} steps, {seconds_text(rows[-1]['seconds'])} of training", fontsize=11)
    losses.plot(minutes, _line([row["loss"] for row in rows]), color="black", marker=".", label="training")
    losses.set_ylabel("loss (Dice + cross-entropy)")
    _draw_dice(dices, minutes, rows)
    for group in rows[-1]["rates"]:
        rates.plot(minutes, [row["rates"][group] for row in rows], marker=".", label=group)
    rates.set_ylabel("learning rate")
    rates.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (losses, dices, rates):
        axes.grid(alpha=0.3)
    _draw_stages(stages, minutes, rows)
    stages.set_xlabel("training time (min)")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_dice(axes: Axes, minutes: list[float], rows: Sequence[Row]) -> None:
    labels = list(rows[-1]["dice"])
    for label in labels[:MOST_LABELS]:
        axes.plot(minutes, _line([row["dice"][label] for row in rows]), linewidth=1, marker=".", label=label)
    axes.plot(minutes, _line([mean_dice(row) for row in rows]), color="black", linewidth=2, label="mean")
    axes.set_ylim(0, 1)
    axes.set_ylabel("Dice (random validation patches)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_stages(axes: Axes, minutes: list[float], rows: Sequence[Row]) -> None:
    """One bar per encoder stage, coloured by its state in each epoch."""
    names, states = list(rows[-1]["stages"]), list(STATES)
    codes = np.array([[states.index(row["stages"][name]) for row in rows] for name in names])
    edges = [0.0, *minutes]
    colours = ListedColormap(list(STATES.values()))
    axes.pcolormesh(edges, np.arange(len(names) + 1) - 0.5, codes, cmap=colours, vmin=0, vmax=len(states) - 1)
    axes.hlines(np.arange(len(names) - 1) + 0.5, 0, minutes[-1], color="white", linewidth=2)
    axes.set_yticks(range(len(names)), [f"stage {name}" for name in names])
    axes.set_ylabel("encoder")
    patches = [Patch(color=colour, label=state) for state, colour in STATES.items()]
    axes.legend(handles=patches, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _line(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
