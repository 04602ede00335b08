"""Drawing of one slice: the image in grey or colours, labels as outlines and areas, errors, and the legend's entries.

The reference is drawn as outlines along the edges of voxels, the prediction as a translucent area in the same colour;
of nested regions the last one is on top.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from seg_transfer.data.image import Image
from seg_transfer.evaluation.planes import Plane, best_slice, outline
from seg_transfer.evaluation.scores import LabelValue
from seg_transfer.util.texts import unformatted

# Okabe and Ito's palette, which colour-blind readers can distinguish, without its black and grey.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
AREA_OPACITY = 0.4
POINTS_PER_INCH = 72
LINE_WIDTHS = (0.35, 1.3)
# Margin around the foreground as a fraction of its extent; images are cropped to it.
MARGIN = 0.4
ERRORS = {"false negative": "#FF2D2D", "false positive": "#00E5FF", "wrong label": "#FFE600"}
"""Colours that labels do not have."""
ERROR_OPACITY = 0.75
SLAB = 16
"""Slices that are counted at a time, so that masks of large volumes take little memory."""
MOST_SAMPLED = 10**6
"""Voxels from which the range of grey values is taken."""


@dataclass(frozen=True)
class SliceCounts:
    """Voxels in each slice across the axes x, y and z.

    Attributes:
        reference: Of the reference's foreground.
        prediction: Of the prediction's foreground.
        wrong: Of errors, see :func:`errors_of`.
    """

    reference: tuple[np.ndarray, ...]
    prediction: tuple[np.ndarray, ...]
    wrong: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, reference: np.ndarray, prediction: np.ndarray, values: Sequence[LabelValue]) -> SliceCounts:
        """Count in label maps ``(x, y, z)``; ``values`` are those of the labels, for a region a tuple."""
        foreground = _members(values)
        counts = np.zeros((3, sum(reference.shape)), np.int64)
        x, y, z = np.split(counts, np.cumsum(reference.shape)[:-1], axis=1)
        for start in range(0, reference.shape[2], SLAB):
            slab = slice(start, start + SLAB)
            true, predicted = reference[..., slab], prediction[..., slab]
            masks = np.isin(true, foreground), np.isin(predicted, foreground), errors_of(true, predicted, values)
            for kind, mask in enumerate(masks):
                x[kind] += np.count_nonzero(mask, axis=(1, 2))
                y[kind] += np.count_nonzero(mask, axis=(0, 2))
                z[kind, slab] = np.count_nonzero(mask, axis=(0, 1))
        return cls(*((x[kind], y[kind], z[kind]) for kind in range(3)))

    def labelled_slice(self, plane: Plane) -> int:
        """Index of the slice with the most reference foreground, else with the most of the prediction."""
        return best_slice(self.reference[plane.across], self.prediction[plane.across])

    def wrong_slice(self, plane: Plane) -> int:
        """Index of the slice with most errors; without errors that with most foreground."""
        return best_slice(self.wrong[plane.across], self.reference[plane.across])


def draw_plane(
    axes: Axes,
    plane: Plane,
    image: Image,
    reference: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[LabelValue],
    *,
    inches: float,
    index: int,
    around: Sequence[np.ndarray] = (),
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
        index: Of the slice.
        around: Label maps ``(x, y, z)`` around whose foreground the slice is cropped, beside what is drawn.
    """
    shown, foreground = _by_label(values), _members(values)
    true, predicted = plane.cut(reference, index), plane.cut(prediction, index)
    step, extent = _show_image(axes, plane, image, index)
    cuts = [true, predicted, *(plane.cut(each, index) for each in around)]
    window = _window(np.any([np.isin(each, foreground) for each in cuts], axis=0), step)
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
    """Errors of label maps, or of slices of them: 0 none, then as in :data:`ERRORS`; what is not annotated has none."""
    foreground = _members(values)
    true, predicted = np.isin(reference, foreground), np.isin(prediction, foreground)
    errors = np.zeros(reference.shape, np.uint8)
    errors[true & ~predicted] = 1
    errors[predicted & (reference == 0)] = 2
    errors[true & predicted & (reference != prediction)] = 3
    return errors


def draw_errors(
    axes: Axes,
    plane: Plane,
    image: Image,
    reference: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[LabelValue],
    index: int,
) -> None:
    """Draw the errors of a slice, which is the one with most of them, each kind in its colour."""
    true = plane.cut(reference, index)
    wrong = errors_of(true, plane.cut(prediction, index), values)
    step, extent = _show_image(axes, plane, image, index)
    area = np.zeros((*wrong.shape, 4))
    for kind, colour in enumerate(ERRORS.values(), start=1):
        area[wrong == kind] = (*to_rgb(colour), ERROR_OPACITY)
    axes.imshow(area, extent=extent, interpolation="nearest")
    window = _window((wrong != 0) | (true != 0), step)
    which = f"{plane.name} {index + 1}/{reference.shape[plane.across]}: most errors" if plane.name else "errors"
    _annotate(axes, plane, window, which if wrong.any() else "no errors")


def _by_label(values: Sequence[LabelValue]) -> list[tuple[int, ...]]:
    return [value if isinstance(value, tuple) else (value,) for value in values]


def _members(values: Sequence[LabelValue]) -> list[int]:
    """All values of labels and regions."""
    return [member for members in _by_label(values) for member in members]


def _background(channels: np.ndarray, image: Image) -> np.ndarray:
    """Slice ``(channel, row, column)`` -> RGB for a 2D RGB image, otherwise the first channel scaled to 0..1."""
    if image.unit == "pixel" and image.array.shape[0] == 3:
        top = 255.0 if image.array.max() > 1 else 1.0
        return np.clip(np.moveaxis(channels, 0, -1) / top, 0, 1)
    step = max(1, math.ceil((image.array[0].size / MOST_SAMPLED) ** (1 / 3)))
    low, high = np.percentile(image.array[0, ::step, ::step, ::step], (1, 99))
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


def colours_of(names: Iterable[str]) -> list[Patch]:
    """The legend's entries for labels, in the order of the colours."""
    return [
        Patch(color=colour, label=unformatted(name))
        for name, colour in zip(names, itertools.cycle(PALETTE), strict=False)
    ]
