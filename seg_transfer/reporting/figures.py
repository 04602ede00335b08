"""Figures of the report, as SVG in data addresses."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from seg_transfer.data.image import Image
from seg_transfer.evaluation.drawing import MOST_SAMPLED, PALETTE
from seg_transfer.evaluation.planes import AXIAL, CORONAL, IMAGE_2D, SAGITTAL, Plane
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.training.progress_plot import plain_numbers, scale_losses
from seg_transfer.util.texts import unformatted

MOST_CHANNELS = 4
"""Channels whose histograms are drawn."""
BINS = 80
DPI, JPEG_QUALITY = 80, 82


def data_address(content: bytes, kind: str) -> str:
    """Content as an address that a page holds itself, such as of kind ``image/png``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def as_svg(figure: Figure) -> str:
    """A drawing as a data address; its text stays text, and its bytes do not depend on the time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return data_address(buffer.getvalue(), "image/svg+xml")


def as_jpeg(figure: Figure) -> str:
    """A figure with slices of images as a data address; a case of three planes takes about 60 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", dpi=DPI, pil_kwargs={"quality": JPEG_QUALITY})
    return data_address(buffer.getvalue(), "image/jpeg")


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_facecolor("white")
    return figure


def volumes(fingerprint: Fingerprint) -> Figure:
    """The size of each label in all cases that hold it, on a logarithmic axis if they differ more than tenfold."""
    names = [label.name for label in fingerprint.labels]
    sizes = [
        [case.labels[index].volume for case in fingerprint.cases if case.labels[index].voxels]
        for index in range(len(names))
    ]
    figure = _figure(7, 1 + 0.4 * len(names))
    axes = figure.subplots()
    _boxes(axes, dict(zip(names, sizes, strict=True)))
    found = [size for of_label in sizes for size in of_label]
    if found and max(found) > 10 * min(found):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    axes.set_xlabel("volume (ml)" if fingerprint.unit == "mm" else "pixels")
    return figure


def patch(image: Image, plan: Plan) -> Figure:
    """The median case on the network's grid with a patch, and its intensities before and after normalization."""
    middle, samples = _prepared(image, plan)
    names = [channel.name for channel in plan.data.channels]
    figure = _figure(9, 3.2)
    slice_, *histograms = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])
    plane = _plane(plan)
    order = np.argsort(plan.data.axes)
    sizes = np.array(plan.model.patch)[order]
    cut = plane.cut(middle[np.newaxis].transpose(order), 0)
    low, high = np.percentile(cut, (1, 99))
    slice_.imshow(cut, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    (rows, columns), height, width = cut.shape, sizes[plane.rows[0]], sizes[plane.columns[0]]
    corner = ((columns - width) / 2 - 0.5, (rows - height) / 2 - 0.5)
    slice_.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=PALETTE[0], linewidth=2))
    slice_.set_xlim(min(corner[0], -0.5) - 2, max(corner[0] + width, columns - 0.5) + 2)
    slice_.set_ylim(max(corner[1] + height, rows - 0.5) + 2, min(corner[1], -0.5) - 2)
    slice_.set_axis_off()
    slice_.set_title(f"patch of {' x '.join(map(str, plan.model.patch))}", fontsize=9)
    stored = [_sampled(channel) for channel in image.array[:MOST_CHANNELS]]
    for axes, arrays, title in zip(histograms, (stored, samples), ("as stored", "normalized"), strict=True):
        for array, name, colour in zip(arrays, names, itertools.cycle(PALETTE), strict=False):
            axes.hist(array.ravel(), bins=BINS, color=colour, alpha=0.6, label=unformatted(name))
        axes.set_yscale("log")
        axes.yaxis.set_visible(False)
        axes.set_title(f"intensities {title}", fontsize=9)
    histograms[0].legend(fontsize=8)
    return figure


def _prepared(image: Image, plan: Plan) -> tuple[np.ndarray, list[np.ndarray]]:
    """The middle slice ``(u, v)`` of the first channel on the network's grid, and a sample of each channel's values."""
    transform = CaseTransform.fit(image, plan.data)
    shown = min(len(plan.data.channels), MOST_CHANNELS)
    middle = np.empty(transform.shape[1:], np.float32)
    samples: list[list[np.ndarray]] = [[] for _ in range(shown)]
    for channel, start, slab in transform.slabs(image):
        at = transform.shape[0] // 2 - start
        if channel == 0 and 0 <= at < len(slab):
            middle[...] = slab[at]
        if channel < shown:
            samples[channel].append(_sampled(slab, of=math.prod(transform.shape)).ravel())
    return middle, [np.concatenate(parts) for parts in samples]


def _sampled(array: np.ndarray, *, of: int | None = None) -> np.ndarray:
    """Every n-th value along each axis, so that at most about a million of all are kept."""
    step = max(1, round(((of or array.size) / MOST_SAMPLED) ** (1 / 3)))
    return array[::step, ::step, ::step]


def _plane(plan: Plan) -> Plane:
    """The plane of the network's slices."""
    if plan.data.unit == "pixel":
        return IMAGE_2D
    return next(plane for plane in (AXIAL, CORONAL, SAGITTAL) if plane.across == plan.data.axes[0])


def stages(plan: Plan) -> Figure:
    """When each stage of the encoder learns, and how fast compared with the decoder."""
    strategy = plan.recipe.strategy
    figure = _figure(7, 1.1 + 0.3 * len(strategy.start))
    axes = figure.subplots()
    for stage, (start, rate) in enumerate(zip(strategy.start, strategy.rate, strict=True)):
        origin = "pretrained" if stage < strategy.pretrained_stages else "random weights"
        axes.barh(stage, 1, color="#d9d9d9", height=0.7)
        if start is not None:
            axes.barh(stage, 1 - start, left=start, color=PALETTE[1], height=0.7)
        text = "never learns" if start is None else f"learns at {rate:.3g} of the decoder's rate"
        axes.text(0.01, stage, f"{origin}; {text}", va="center", fontsize=8)
    axes.set_yticks(range(len(strategy.start)), [f"stage {stage}" for stage in range(len(strategy.start))])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the training")
    return figure


def curves(logs: Mapping[str, Path], scored: Mapping[str, float]) -> Figure | None:
    """Losses, mean Dice and seconds per step of every fold; None where no log has a row.

    Args:
        logs: Name of a fold -> its ``log.csv``.
        scored: Name of a fold -> mean Dice of its whole held-out cases, which is a star at the end.
    """
    figure = _figure(11, 3.2)
    loss, dice, speed = figure.subplots(1, 3, width_ratios=[1, 1, 0.6])
    losses: list[float] = []
    longest = 0.0
    for (name, log), colour in zip(logs.items(), itertools.cycle(PALETTE), strict=False):
        with log.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for axes, column in ((loss, "loss"), (loss, "validation_loss"), (dice, "dice")):
            points = [(float(row["seconds"]) / 60, float(row[column])) for row in rows if row.get(column)]
            if points:
                style = ".--" if column == "validation_loss" else ".-"
                axes.plot(*zip(*points, strict=True), style, color=colour, label=name, linewidth=1.2, markersize=4)
                losses += [value for _, value in points if axes is loss]
        if rows:
            minutes = [float(row["seconds"]) / 60 for row in rows]
            pace = np.diff([0.0, *minutes]) * 60 / np.diff([0, *(int(row["step"]) for row in rows)])
            speed.plot(minutes, pace, ".-", color=colour, linewidth=1.2, markersize=4)
            longest = max(longest, minutes[-1])
            if name in scored:
                dice.plot(minutes[-1], scored[name], "*", color=colour, markersize=11, markeredgecolor="black")
    if not losses:
        return None
    scale_losses(loss, losses)
    dice.set_ylim(0, 1)
    speed.set_ylim(0, 1.1 * speed.get_ylim()[1])
    titles = {
        loss: "loss (dashed: of validation patches)",
        dice: "mean Dice of validation patches (star: of whole cases)",
        speed: "seconds per step",
    }
    for axes, title in titles.items():
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("minutes")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(0, 1.05 * longest or 1)
        axes.grid(alpha=0.3)
    figure.legend(*dice.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return figure


def dice_boxes(scores: Scores) -> Figure:
    """Dice of all held-out cases, per label."""
    found = {
        name: [case[name].metrics["dice"] for case in scores.cases.values() if not np.isnan(case[name].metrics["dice"])]
        for name in scores.labels
    }
    figure = _figure(7, 1 + 0.4 * len(found))
    axes = figure.subplots()
    _boxes(axes, found)
    axes.set_xlabel("Dice")
    axes.set_xlim(min(0.9, *(min(values, default=1) for values in found.values())) - 0.02, 1.0)
    return figure


def differences(values: Mapping[str, float], lower: float, upper: float) -> Figure:
    """Differences of mean Dice per case, sorted, and the interval of their mean."""
    ranked = sorted(values.values())
    figure = _figure(7, 2.6)
    axes = figure.subplots()
    axes.axhspan(lower, upper, color=PALETTE[1], alpha=0.3, linewidth=0, label="95 % interval of the mean")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.plot(range(1, len(ranked) + 1), ranked, marker="o", linestyle="none", color=PALETTE[4], label="one case")
    axes.set_ylabel("difference of mean Dice")
    axes.set_xlabel("cases, sorted")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def _boxes(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """One horizontal box per name, the first on top, with a point for each value."""
    positions = list(range(len(values), 0, -1))
    axes.boxplot(list(values.values()), orientation="horizontal", positions=positions, showfliers=False, widths=0.6)
    spread = np.random.default_rng(0)
    for position, found, colour in zip(positions, values.values(), itertools.cycle(PALETTE), strict=False):
        heights = position + spread.uniform(-0.2, 0.2, len(found))
        axes.plot(found, heights, marker=".", linestyle="none", color=colour, alpha=0.7)
    axes.set_yticks(positions, list(map(unformatted, values)))
    axes.grid(axis="x", alpha=0.3)
