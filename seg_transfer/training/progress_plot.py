"""``progress.png``: losses, Dice, seconds per step, learning rates and frozen stages over training time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from seg_transfer.training.history import Row, mean_dice
from seg_transfer.util.files import whole_file
from seg_transfer.util.statistics import mean_of_defined
from seg_transfer.util.texts import unformatted
from seg_transfer.util.units import seconds_text

STATES = {"frozen": "#9db7d5", "warming": "#f3d27a", "learning": "#d9825b"}
MOST_LABELS = 10
"""Labels with a colour and an entry in the legend of their own."""
LEGEND_LEFT = 1.02
"""Beside the axes, so that legends hide nothing."""
HALF = 0.5
"""Where the axis of Dice starts if all is above, so that curves near 1 are told apart."""
LOG_FROM = 4
"""Ratio of the largest to the smallest loss from which its axis is logarithmic."""


def draw_progress(
    path: Path, rows: Sequence[Row], *, title: str, scores: Mapping[str, float | None] | None = None
) -> None:
    """Draw at least one epoch over training time in minutes.

    Args:
        path: A .png file.
        rows: Finished epochs; those of earlier versions have no validation loss.
        title: First line of the title.
        scores: Label -> mean Dice of whole held-out cases with the final weights, once they are scored.
    """
    figure = Figure(figsize=(9, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, dices, speeds, rates, stages = figure.subplots(5, 1, sharex=True, height_ratios=[3, 4, 1.5, 3, 2])
    minutes = [row["seconds"] / 60 for row in rows]
    figure.suptitle(
        f"{unformatted(title)}\n{rows[-1]['step']} steps, {seconds_text(rows[-1]['seconds'])} of training", fontsize=11
    )
    _draw_losses(losses, minutes, rows)
    _draw_dice(dices, minutes, rows, scores or {})
    _draw_speed(speeds, minutes, rows)
    for group in rows[-1]["rates"]:
        rates.plot(minutes, [row["rates"][group] for row in rows], marker=".", label=group)
    rates.set_ylabel("learning rate")
    for axes in (losses, dices, rates):
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(LEGEND_LEFT, 0.5))
    for axes in (losses, dices, speeds, rates):
        axes.grid(alpha=0.3)
    _draw_stages(stages, minutes, rows)
    stages.set_xlabel("training time (min)")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_losses(axes: Axes, minutes: list[float], rows: Sequence[Row]) -> None:
    curves = {
        "training": _line([row["loss"] for row in rows]),
        "validation\npatches": _line([row.get("validation_loss") for row in rows]),
    }
    for (name, curve), colour in zip(curves.items(), ("black", "#d9825b"), strict=True):
        if not np.isnan(curve).all():
            axes.plot(minutes, curve, color=colour, marker=".", label=name)
    axes.set_ylabel("loss (Dice + cross-entropy)")
    scale_losses(axes, [value for curve in curves.values() for value in curve if not np.isnan(value)])


def scale_losses(axes: Axes, known: Sequence[float]) -> None:
    """Make an axis of losses logarithmic where they differ much, with plain numbers at its marks."""
    if known and min(known) > 0 and max(known) > LOG_FROM * min(known):
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)


def plain_numbers(axis: Axis) -> None:
    """Mark a logarithmic axis at 1, 2, 5, 10 and so on, in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_dice(axes: Axes, minutes: list[float], rows: Sequence[Row], scores: Mapping[str, float | None]) -> None:
    """Curves of validation patches per label, and as stars at the end the Dice of whole cases."""
    labels = list(rows[-1]["dice"])
    for index, label in enumerate(labels):
        colour = f"C{index}" if index < MOST_LABELS else "lightgrey"
        name = unformatted(label) if index < MOST_LABELS else None
        if index == MOST_LABELS:
            name = f"{len(labels) - MOST_LABELS} more labels"
        axes.plot(minutes, _line([row["dice"].get(label) for row in rows]), color=colour, lw=1, marker=".", label=name)
        _draw_star(axes, minutes[-1], scores.get(label), colour)
    axes.plot(minutes, _line([mean_dice(row) for row in rows]), color="black", linewidth=2, label="mean")
    if scores:
        mean = mean_of_defined(scores.values())
        _draw_star(axes, minutes[-1], mean, "black")
        axes.plot([], [], "*", color="black", markersize=10, label=f"whole cases,\nmean {mean:.3f}")
    known = [value for row in rows for value in row["dice"].values() if value is not None]
    known += [value for value in scores.values() if value is not None]
    axes.set_ylim(HALF if min(known, default=0) >= HALF else 0, 1)
    axes.set_ylabel("Dice (validation patches)")


def _draw_star(axes: Axes, minute: float, value: float | None, colour: str) -> None:
    if value is not None and not np.isnan(value):
        axes.plot([minute], [value], "*", color=colour, markersize=12, markeredgecolor="white", clip_on=False, zorder=4)


def _draw_speed(axes: Axes, minutes: list[float], rows: Sequence[Row]) -> None:
    """Mean time of a step in each epoch, without validation and saving."""
    seconds = np.diff([0.0, *(row["seconds"] for row in rows)]) / np.diff([0, *(row["step"] for row in rows)])
    axes.plot(minutes, seconds, color="black", marker=".")
    axes.set_ylim(bottom=0, top=1.2 * seconds.max() or None)
    axes.set_ylabel("seconds\nper step")


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
    axes.legend(handles=patches, fontsize=8, loc="center left", bbox_to_anchor=(LEGEND_LEFT, 0.5))


def _line(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
