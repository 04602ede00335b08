"""``probe.png``: accuracy and Dice of each stage's features, with the baselines as lines."""

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
BASELINES = {"filters": ("local filters", "-."), "raw": ("intensities", ":")}
Value = Callable[[ProbedFeatures], Estimate | None]


def draw_probe(path: Path, evidence: ProbeEvidence) -> None:
    """Draw balanced accuracy with standard errors, and Dice; the PNG file appears whole or not at all."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Frozen features, {evidence.configuration}, softmax, {evidence.cases} cases", fontsize=11)
    accuracy, dice = figure.subplots(1, 2)
    _panel(accuracy, evidence.features, lambda entry: entry.scores["softmax"].balanced_accuracy)
    accuracy.set_ylabel("balanced accuracy (± standard error)")
    _panel(
        dice,
        evidence.features,
        lambda entry: None if math.isnan(entry.mean_dice) else Estimate(mean=entry.mean_dice, error=None),
    )
    dice.set_ylabel(f"mean Dice on {evidence.held_out} whole held-out case(s)")
    dice.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _panel(axes: Axes, features: Sequence[ProbedFeatures], value: Value) -> None:
    """One line per encoder over its stages, with all stages together last; a horizontal line per baseline."""
    depth = 1 + max((entry.stage for entry in features if entry.stage is not None), default=0)
    names = [entry.encoder for entry in features if entry.source == "pretrained" and entry.stage == 0]
    for colour, name in zip(COLOURS * len(names), names, strict=False):
        for source, style, label in (("pretrained", "-", name), ("random", "--", f"{name}, random weights")):
            of_encoder = [entry for entry in features if entry.source == source and entry.encoder == name]
            single = [entry for entry in of_encoder if entry.stage is not None]
            joint = [entry for entry in of_encoder if entry.stage is None]
            _line(axes, single, value, depth, style, colour, str(label))
            _line(axes, joint, value, depth, style, colour, None)
    combined = [entry for entry in features if entry.encoder is not None and entry.encoder not in names]
    for source, style, label in (("pretrained", "-", "all encoders"), ("random", "--", "all encoders, random weights")):
        _line(axes, [entry for entry in combined if entry.source == source], value, depth, style, "black", label)
    for source, (label, style) in BASELINES.items():
        for estimate in (value(entry) for entry in features if entry.source == source):
            if estimate is not None:
                axes.axhline(estimate.mean, color="grey", linestyle=style, label=label)
                if estimate.error is not None:
                    interval = estimate.mean - estimate.error, estimate.mean + estimate.error
                    axes.axhspan(*interval, color="grey", alpha=0.12)
    strides = {entry.stage: entry.stride for entry in features if entry.encoder == names[0] and entry.stage is not None}
    axes.set_xticks(range(depth + 1), [*(f"{stage}\n1/{strides.get(stage, '?')}" for stage in range(depth)), "all"])
    axes.set_xlabel("stage of the encoder and its resolution")
    axes.grid(alpha=0.3)


def _line(
    axes: Axes, features: Sequence[ProbedFeatures], value: Value, depth: int, style: str, colour: str, label: str | None
) -> None:
    points = [
        (depth if entry.stage is None else entry.stage, estimate.mean, estimate.error or 0)
        for entry in features
        if (estimate := value(entry)) is not None
    ]
    if points:
        positions, means, errors = zip(*points, strict=True)
        axes.errorbar(
            positions,
            means,
            errors,
            linestyle=style,
            color=colour,
            marker="o",
            markersize=5,
            markerfacecolor="white" if style == "--" else colour,
            capsize=2,
            label=label,
        )
