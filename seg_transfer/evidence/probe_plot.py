"""``probe.png``: how good each stage's features are, with the controls as lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from seg_transfer.planning.evidence_record import Estimate, ProbedFeatures, ProbeEvidence
from seg_transfer.util.files import whole_file

COLOURS = ("#c1432e", "#2e6fc1", "#3c8c4a", "#8e5aa8", "#b5892c")
CONTROLS = {"filters": ("local filters", "-."), "raw": ("intensities", ":")}
Value = Callable[[ProbedFeatures], Estimate | None]


def draw_probe(path: Path, found: ProbeEvidence) -> None:
    """Draw balanced accuracy with standard errors, and Dice; whole or not at all.

    Args:
        path: A .png file.
        found: What was measured.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Frozen features, {found.configuration}, softmax, {found.cases} cases", fontsize=11)
    accuracy, dice = figure.subplots(1, 2)
    _panel(accuracy, found.features, lambda one: one.scores["softmax"].balanced_accuracy)
    accuracy.set_ylabel("balanced accuracy (± standard error)")
    _panel(
        dice,
        found.features,
        lambda one: None if math.isnan(one.mean_dice) else Estimate(mean=one.mean_dice, error=None),
    )
    dice.set_ylabel(f"mean Dice on {found.held_out} whole held-out case(s)")
    dice.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _panel(axes: Axes, features: Sequence[ProbedFeatures], value: Value) -> None:
    """One line per encoder over its stages, all of them together last; controls without stages across."""
    depth = 1 + max((one.stage for one in features if one.stage is not None), default=0)
    names = [one.encoder for one in features if one.source == "pretrained" and one.stage == 0]
    for colour, name in zip(COLOURS * len(names), names, strict=False):
        for source, style, label in (("pretrained", "-", name), ("random", "--", f"{name}, random weights")):
            mine = [one for one in features if one.source == source and one.encoder == name]
            _line(axes, [one for one in mine if one.stage is not None], value, depth, style, colour, str(label))
            _line(axes, [one for one in mine if one.stage is None], value, depth, style, colour, None)
    joint = [one for one in features if one.encoder is not None and one.encoder not in names]
    for source, style, label in (("pretrained", "-", "all encoders"), ("random", "--", "all encoders, random weights")):
        _line(axes, [one for one in joint if one.source == source], value, depth, style, "black", label)
    for source, (label, style) in CONTROLS.items():
        for found in (value(one) for one in features if one.source == source):
            if found is not None:
                axes.axhline(found.mean, color="grey", linestyle=style, label=label)
                if found.error is not None:
                    axes.axhspan(found.mean - found.error, found.mean + found.error, color="grey", alpha=0.12)
    strides = {one.stage: one.stride for one in features if one.encoder == names[0] and one.stage is not None}
    axes.set_xticks(range(depth + 1), [*(f"{stage}\n1/{strides.get(stage, '?')}" for stage in range(depth)), "all"])
    axes.set_xlabel("stage of the encoder and its resolution")
    axes.grid(alpha=0.3)


def _line(
    axes: Axes, chosen: Sequence[ProbedFeatures], value: Value, depth: int, style: str, colour: str, label: str | None
) -> None:
    known = [(depth if one.stage is None else one.stage, found) for one in chosen if (found := value(one)) is not None]
    if known:
        axes.errorbar(
            [place for place, _ in known],
            [found.mean for _, found in known],
            [found.error or 0 for _, found in known],
            linestyle=style,
            color=colour,
            marker="o",
            markersize=5,
            markerfacecolor="white" if style == "--" else colour,
            capsize=2,
            label=label,
        )
