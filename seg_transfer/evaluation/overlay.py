"""Overlays of predictions on their images: the image, its labels in each plane, and the errors; best to worst case.

The reference is drawn as outlines along the edges of voxels, the prediction as a translucent area in the same colour;
of nested regions the last one is on top. Errors have colours of their own, in the slice that has most of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from seg_transfer.data.formats import read_header
from seg_transfer.data.image import Image, filled, read_image, read_label
from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.evaluation.planes import Plane, best_slice, outline, planes_of
from seg_transfer.evaluation.scores import LabelScore, LabelValue, Scores
from seg_transfer.util.files import whole_file

DICE = METRICS["dice"]
# Okabe and Ito's palette, which colour-blind readers can distinguish, without its black and grey.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
AREA_OPACITY = 0.4
POINTS_PER_INCH = 72
LINE_WIDTHS = (0.35, 1.3)
# Margin around the foreground as a fraction of its extent; images are cropped to it.
MARGIN = 0.4
# Number of planes -> size of each panel; larger for 2D images, which may have a thousand pixels per side.
INCHES = {1: 4.2, 3: 2.9}
CASES = {1: 6, 3: 3}
"""Number of planes -> cases that are shown."""
ERRORS = {"false negative": "#FF2D2D", "false positive": "#00E5FF", "wrong label": "#FFE600"}
"""Colours that labels do not have."""
ERROR_OPACITY = 0.75
INCHES_LEGEND = 1.8
DPI = 120


@dataclass(frozen=True)
class CaseFiles:
    """Files of a case: its image, and the reference and predicted label map; None if it is not predicted."""

    images: tuple[Path, ...]
    reference: Path
    prediction: Path | None


def pick_cases(scores: Scores, most: int = 3) -> list[tuple[str, str]]:
    """Title and name of the best and the worst case by mean Dice, and of cases evenly between: one is the median.

    Args:
        scores: The scores of the cases.
        most: Number of cases, at least 2; fewer if there are fewer.
    """
    ranked = sorted(
        (case for case in scores.cases if not math.isnan(scores.case_dice(case))), key=scores.case_dice, reverse=True
    )
    if not ranked:
        return [("no label", case) for case in list(scores.cases)[:1]]
    if len(ranked) == 1:
        return [("only case", ranked[0])]
    last = len(ranked) - 1
    between = sorted({rank * len(ranked) // (most - 1) for rank in range(1, most - 1)} - {0, last})
    middle = [("median" if most == 3 else f"{rank + 1} of {len(ranked)}", ranked[rank]) for rank in between]
    return [("best", ranked[0]), *middle, ("worst", ranked[-1])]


def save_overlay(
    path: Path, scores: Scores, files: Mapping[str, CaseFiles], *, names: Mapping[str, int] | None = None
) -> None:
    """Draw the best, the median and the worst case into one PNG; of 2D images six cases.

    Args:
        path: The PNG file to write.
        scores: The scores of the cases.
        files: Case -> its files, for every scored case.
        names: Label name -> value, for references that are segmentations of 3D Slicer.

    Raises:
        UserError: If a file cannot be read.
    """
    rows: list[_Row] = []
    for title, case in pick_cases(scores, CASES[_planes_in(files[next(iter(scores.cases))])] if scores.cases else 3):
        text = f"{title}: {case}   mean Dice {DICE.text(scores.case_dice(case))}"
        rows.append(_Row(text, *_read(files[case], names), scores.labels, scores.cases[case]))
    if rows:
        _save(path, _drawn(rows))


def save_case_overlay(
    path: Path,
    case: str,
    files: CaseFiles,
    labels: Mapping[str, LabelValue],
    scores: Mapping[str, LabelScore] | None,
    *,
    names: Mapping[str, int] | None = None,
) -> None:
    """Draw one case into a PNG; see :func:`case_overlay`.

    Raises:
        UserError: If a file cannot be read.
    """
    _save(path, case_overlay(case, files, labels, scores, names=names))


def case_overlay(
    case: str,
    files: CaseFiles,
    labels: Mapping[str, LabelValue],
    scores: Mapping[str, LabelScore] | None,
    *,
    names: Mapping[str, int] | None = None,
) -> Figure:
    """Draw one case: the slices with most of its labels and, if it is predicted, with most errors.

    Args:
        case: Name of the case.
        files: Its files.
        labels: Name -> value in label maps, for a region all of its values.
        scores: Label -> its scores; None where the case is not predicted.
        names: Label name -> value, for references that are segmentations of 3D Slicer.

    Raises:
        UserError: If a file cannot be read.
    """
    image, reference, prediction = _read(files, names)
    rows = [_Row(f"{case}: most of the labels", image, reference, prediction, labels, scores)]
    if prediction is not None and (prediction != reference).any():
        rows.append(_Row(f"{case}: most errors", image, reference, prediction, labels, scores, errors=True))
    return _drawn(rows)


@dataclass(frozen=True)
class _Row:
    """One case in its planes; ``errors``: the slices with most errors, in place of those with most foreground."""

    title: str
    image: Image
    reference: np.ndarray
    prediction: np.ndarray | None
    labels: Mapping[str, LabelValue]
    scores: Mapping[str, LabelScore] | None
    errors: bool = False


def _save(path: Path, figure: Figure) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png")


def _drawn(rows: Sequence[_Row]) -> Figure:
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    planes = max(len(planes_of(row.image)) for row in rows)
    inches = INCHES[planes]
    predicted = any(row.prediction is not None for row in rows)
    figure.set_size_inches(inches * (1 + planes + predicted) + INCHES_LEGEND, inches * len(rows))
    figure.patch.set_facecolor("white")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(row.title, x=0.02, ha="left", weight="bold")
        shown = planes_of(row.image)
        prediction = np.zeros_like(row.reference) if row.prediction is None else row.prediction
        values = list(row.labels.values())
        wrong = errors_of(row.reference, prediction, values)
        panels = part.subplots(1, 1 + len(shown) + predicted, squeeze=False)[0]
        empty = np.zeros_like(row.reference)
        like = np.where(row.reference == 0, prediction, row.reference)
        slices = [
            best_slice(wrong != 0, wrong != 0, plane.across)
            if row.errors
            else labelled_slice(row.reference, prediction, values, plane)
            for plane in shown
        ]
        draw_plane(panels[0], shown[0], row.image, empty, empty, values, inches=inches, index=slices[0], like=like)
        for axes, plane, index in zip(panels[1:], shown, slices, strict=False):
            draw_plane(axes, plane, row.image, row.reference, prediction, values, inches=inches, index=index)
        if predicted:
            draw_errors(panels[-1], shown[0], row, wrong)
        part.legend(handles=_legend(row.labels, row.scores), loc="outside right center", frameon=False)
    return figure


def _planes_in(files: CaseFiles) -> int:
    """Number of planes of a case, by the header of its first file."""
    header = read_header(files.images[0])
    return 1 if header.grid.unit == "pixel" or 1 in header.shape else 3


def draw_plane(
    axes: Axes,
    plane: Plane,
    image: Image,
    reference: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[LabelValue],
    *,
    inches: float,
    index: int | None = None,
    like: np.ndarray | None = None,
) -> None:
    """Draw a slice.

    Args:
        axes: The axes to draw into.
        plane: Orientation of the slice.
        image: Image in canonical orientation.
        reference: Reference label values ``(x, y, z)``.
        prediction: Predicted label values ``(x, y, z)``.
        values: Label values, for a region a tuple of its values, in the order of the colours.
        inches: Size of the axes; smaller voxels get thinner outlines.
        index: Of the slice; by default the one with the most reference foreground.
        like: Label values ``(x, y, z)`` around whose foreground the slice is cropped; by default the reference's and
            the prediction's.
    """
    shown, foreground = _by_label(values), _members(values)
    if index is None:
        index = labelled_slice(reference, prediction, values, plane)
    true, predicted = plane.cut(reference, index), plane.cut(prediction, index)
    step, extent = _show_image(axes, plane, image, index)
    around = true if like is None else plane.cut(like, index)
    window = _window(np.isin(around, foreground) | np.isin(predicted, foreground), step)
    points_per_voxel = inches * POINTS_PER_INCH * min(step) / np.ptp(window, axis=1).max()
    line = float(np.clip(0.3 * points_per_voxel, *LINE_WIDTHS))
    area = np.zeros((*true.shape, 4))
    for members, colour in zip(shown, itertools.cycle(PALETTE), strict=False):
        area[np.isin(predicted, members)] = (*to_rgb(colour), AREA_OPACITY)
        edges = outline(np.isin(true, members)) * np.array(step)
        axes.add_collection(LineCollection(list(edges), colors=colour, linewidths=line, capstyle="projecting"))
    axes.imshow(area, extent=extent, interpolation="nearest")
    _annotate(axes, plane, window, f"{plane.name} {index + 1}/{reference.shape[plane.across]}" if plane.name else "")


def errors_of(reference: np.ndarray, prediction: np.ndarray, values: Sequence[LabelValue]) -> np.ndarray:
    """Errors ``(x, y, z)``: 0 none, then as in :data:`ERRORS`; what is not annotated has none."""
    foreground = _members(values)
    true, predicted = np.isin(reference, foreground), np.isin(prediction, foreground)
    errors = np.zeros(reference.shape, np.uint8)
    errors[true & ~predicted] = 1
    errors[predicted & (reference == 0)] = 2
    errors[true & predicted & (reference != prediction)] = 3
    return errors


def draw_errors(axes: Axes, plane: Plane, row: _Row, errors: np.ndarray) -> None:
    """Draw the slice with most errors, each kind in its colour."""
    index = best_slice(errors != 0, row.reference != 0, plane.across)
    wrong = plane.cut(errors, index)
    step, extent = _show_image(axes, plane, row.image, index)
    area = np.zeros((*wrong.shape, 4))
    for kind, colour in enumerate(ERRORS.values(), start=1):
        area[wrong == kind] = (*to_rgb(colour), ERROR_OPACITY)
    axes.imshow(area, extent=extent, interpolation="nearest")
    window = _window((wrong != 0) | (plane.cut(row.reference, index) != 0), step)
    which = f"{plane.name} {index + 1}/{errors.shape[plane.across]}: most errors" if plane.name else "errors"
    _annotate(axes, plane, window, which if errors.any() else "no errors")


def _by_label(values: Sequence[LabelValue]) -> list[tuple[int, ...]]:
    return [value if isinstance(value, tuple) else (value,) for value in values]


def _members(values: Sequence[LabelValue]) -> list[int]:
    """All values of labels and regions."""
    return [member for members in _by_label(values) for member in members]


def labelled_slice(reference: np.ndarray, prediction: np.ndarray, values: Sequence[LabelValue], plane: Plane) -> int:
    """Index of the slice with the most reference foreground."""
    foreground = _members(values)
    return best_slice(np.isin(reference, foreground), np.isin(prediction, foreground), plane.across)


def _read(files: CaseFiles, names: Mapping[str, int] | None) -> tuple[Image, np.ndarray, np.ndarray | None]:
    image = filled(read_image(files.images))
    reference, prediction = (
        None if file is None else read_label(file, grid=image.native, names=names).array[0]
        for file in (files.reference, files.prediction)
    )
    assert reference is not None
    return image, reference, prediction


def _background(channels: np.ndarray, image: Image) -> np.ndarray:
    """Slice ``(channel, row, column)`` -> RGB for a 2D RGB image, otherwise the first channel scaled to 0..1."""
    if image.unit == "pixel" and image.array.shape[0] == 3:
        top = 255.0 if image.array.max() > 1 else 1.0
        return np.clip(np.moveaxis(channels, 0, -1) / top, 0, 1)
    low, high = np.percentile(image.array[0], (1, 99))
    return np.clip((channels[0] - low) / max(high - low, 1e-6), 0, 1)


def _window(foreground: np.ndarray, step: tuple[float, float]) -> np.ndarray:
    """Limits of columns and of rows: the foreground with a margin, or everything if there is no foreground."""
    limits = []
    for axis, size in ((1, step[0]), (0, step[1])):
        length = foreground.shape[axis]
        occupied = np.flatnonzero(foreground.any(axis=1 - axis))
        first, last = (occupied[0], occupied[-1] + 1) if occupied.size else (0, length)
        margin = MARGIN * (last - first) + 2
        limits.append((max(first - margin, 0) * size, min(last + margin, length) * size))
    return np.array(limits)


def _show_image(
    axes: Axes, plane: Plane, image: Image, index: int
) -> tuple[tuple[float, float], tuple[float, float, float, float]]:
    """Draw a slice of the image; the size of a pixel ``(column, row)`` and the extent of what lies over it."""
    grey = plane.cut(image.array, index)
    step = float(image.spacing[plane.columns[0]]), float(image.spacing[plane.rows[0]])
    extent = (0.0, grey.shape[-1] * step[0], grey.shape[-2] * step[1], 0.0)
    axes.imshow(_background(grey, image), extent=extent, interpolation="nearest", cmap="gray", vmin=0, vmax=1)
    return step, extent


def _annotate(axes: Axes, plane: Plane, window: np.ndarray, text: str) -> None:
    axes.set_xlim(*window[0])
    axes.set_ylim(*window[1][::-1])
    axes.set_aspect("equal")
    axes.set_axis_off()
    left, right, top = plane.marks
    for label, x, y, horizontal, vertical in (
        (left, 0.02, 0.5, "left", "center"),
        (right, 0.98, 0.5, "right", "center"),
        (top, 0.5, 0.98, "center", "top"),
        (text, 0.02, 0.02, "left", "bottom"),
    ):
        axes.text(
            x,
            y,
            label,
            transform=axes.transAxes,
            color="white",
            fontsize=8,
            ha=horizontal,
            va=vertical,
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )


def _legend(labels: Mapping[str, LabelValue], case: Mapping[str, LabelScore] | None) -> list[Patch | Line2D]:
    entries: list[Patch | Line2D] = [
        Patch(color=colour, label=name if case is None else f"{name}  {DICE.text(case[name].metrics['dice'])}")
        for name, colour in zip(labels, itertools.cycle(PALETTE), strict=False)
    ]
    entries.append(Line2D([], [], color="black", linewidth=1.3, label="reference"))
    if case is not None:
        entries.append(Patch(color="black", alpha=AREA_OPACITY, linewidth=0, label="prediction"))
        entries += [
            Patch(color=colour, alpha=ERROR_OPACITY, linewidth=0, label=kind) for kind, colour in ERRORS.items()
        ]
    return entries
