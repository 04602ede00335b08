"""Overlays of label maps on their images, as PNG.

With a reference: the image, its labels in each plane, and errors in colours of their own, best to worst case. Without
one: the image plain and with the predicted labels, in each plane.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image as Pillow

from seg_transfer.data.formats import read_header
from seg_transfer.data.image import Image, filled, read_image, read_label
from seg_transfer.data.instances import as_foreground
from seg_transfer.evaluation.drawing import (
    AREA_OPACITY,
    ERROR_OPACITY,
    ERRORS,
    SliceCounts,
    colours_of,
    draw_errors,
    draw_plane,
)
from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.evaluation.planes import planes_of
from seg_transfer.evaluation.scores import LabelScore, LabelValue, Scores
from seg_transfer.util.files import file_digest, whole_file
from seg_transfer.util.remote import fetched
from seg_transfer.util.texts import unformatted

DICE = METRICS["dice"]
# Number of planes -> size of each panel; larger for 2D images, which may have a thousand pixels per side.
INCHES = {1: 4.2, 3: 2.9}
CASES = {1: 6, 3: 3}
"""Number of planes -> cases that are shown."""
INCHES_LEGEND, INCHES_TITLE = 1.8, 0.4
DPI = 120
DRAWN_FROM = "Label map SHA-256"
"""Key of the PNG's text that tells which label map it shows."""


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
    path: Path,
    scores: Scores,
    files: Mapping[str, CaseFiles],
    *,
    names: Mapping[str, int] | None = None,
    instances: bool = False,
) -> None:
    """Draw the best, the median and the worst case into one PNG; of 2D images six cases.

    Args:
        path: The PNG file to write.
        scores: The scores of the cases.
        files: Case -> its files, for every scored case.
        names: Label name -> value, for references that are segmentations of 3D Slicer.
        instances: Whether label maps hold numbers of objects, which are drawn as one label.

    Raises:
        UserError: If a file cannot be read.
    """
    if not scores.cases:
        return
    planes = _planes_in(files[next(iter(scores.cases))])
    chosen = pick_cases(scores, CASES[planes])

    def rows() -> Iterator[_Row]:
        for title, case in chosen:
            text = f"{title}: {case}   mean Dice {DICE.text(scores.case_dice(case))}"
            yield _read(text, files[case], scores.labels, scores.cases[case], names, instances)

    predicted = any(files[case].prediction is not None for _, case in chosen)
    _save(path, _drawn(rows(), len(chosen), planes=planes, predicted=predicted))


def save_case_overlay(
    path: Path,
    case: str,
    files: CaseFiles,
    labels: Mapping[str, LabelValue],
    scores: Mapping[str, LabelScore] | None,
    *,
    names: Mapping[str, int] | None = None,
    instances: bool = False,
) -> None:
    """Draw one case into a PNG; see :func:`case_overlay`.

    Raises:
        UserError: If a file cannot be read.
    """
    _save(path, case_overlay(case, files, labels, scores, names=names, instances=instances))


def case_overlay(
    case: str,
    files: CaseFiles,
    labels: Mapping[str, LabelValue],
    scores: Mapping[str, LabelScore] | None,
    *,
    names: Mapping[str, int] | None = None,
    instances: bool = False,
) -> Figure:
    """Draw one case: the slices with most of its labels and, if these are others, those with most errors.

    Args:
        case: Name of the case.
        files: Its files.
        labels: Name -> value in label maps, for a region all of its values.
        scores: Label -> its scores; None where the case is not predicted.
        names: Label name -> value, for references that are segmentations of 3D Slicer.
        instances: Whether label maps hold numbers of objects, which are drawn as one label.

    Raises:
        UserError: If a file cannot be read.
    """
    rows = [_read(f"{case}: most of the labels", files, labels, scores, names, instances)]
    row = rows[0]
    if row.prediction is not None and row.counts.wrong[0].any():
        errors = replace(row, title=f"{case}: most errors", errors=True)
        if all(abs(one - other) <= 1 for one, other in zip(row.slices, errors.slices, strict=True)):
            rows = [replace(row, title=f"{case}: most of the labels, and most errors")]
        else:
            rows.append(errors)
    planes = len(planes_of(row.image))
    return _drawn(iter(rows), len(rows), planes=planes, predicted=row.prediction is not None)


def save_prediction_overlay(
    path: Path,
    case: str,
    images: Sequence[Path],
    label_map: Path,
    labels: Mapping[str, LabelValue],
    names: Mapping[str, int] | None = None,
    *,
    instances: bool = False,
) -> None:
    """Draw a case without a reference into a PNG: plain, and with its predicted labels and their volumes.

    Planes are cut where most is labelled. The PNG tells its label map, see :func:`shows`.

    Args:
        path: The PNG file to write.
        case: Name of the case.
        images: A file per channel.
        label_map: The predicted label map.
        labels: Name -> value in label maps, for a region all of its values.
        names: Name -> value of single labels, for a segmentation of 3D Slicer.
        instances: Whether the label map holds numbers of objects, which are drawn as one label.

    Raises:
        UserError: If a file cannot be read.
    """
    digest = file_digest(label_map)
    image = filled(read_image(images))
    predicted = read_label(label_map, grid=image.native, names=names).array[0]
    if instances:
        predicted = as_foreground(predicted)
    values, planes = list(labels.values()), planes_of(image)
    counts = SliceCounts.of(predicted, predicted, values)
    inches, empty = INCHES[len(planes)], np.zeros_like(predicted)
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    flat = len(planes) == 1
    figure.set_size_inches(inches * (2 if flat else 3) + INCHES_LEGEND, inches * (1 if flat else 2) + INCHES_TITLE)
    figure.suptitle(unformatted(case), x=0.02, ha="left", weight="bold")
    panels = figure.subplots(len(planes), 2, squeeze=False) if flat else figure.subplots(2, 3, squeeze=False).T
    for (plain, labelled), plane in zip(panels, planes, strict=True):
        index = counts.labelled_slice(plane)
        for axes, shown in ((plain, empty), (labelled, predicted)):
            draw_plane(axes, plane, image, empty, shown, values, inches=inches, index=index, around=[predicted])
    voxels = _voxels_of(predicted)
    entries = [f"{name}  {_size_text(voxels, value, image)}" for name, value in labels.items()]
    figure.legend(handles=colours_of(entries), loc="outside right center", frameon=False)
    _save(path, figure, {DRAWN_FROM: digest})


def shows(path: Path, label_map: Path) -> bool:
    """Whether a file is an overlay that :func:`save_prediction_overlay` drew of this very label map."""
    fetched(path)
    try:
        with Pillow.open(path) as overlay:
            return bool(overlay.info.get(DRAWN_FROM) == file_digest(label_map))
    except (OSError, ValueError, SyntaxError):  # what pillow raises for a file that is missing or no image
        return False


def _voxels_of(labels: np.ndarray) -> Counter[int]:
    """Value -> its voxels in a label map ``(x, y, z)``, without background."""
    voxels: Counter[int] = Counter()
    for z in range(labels.shape[2]):
        plane = labels[..., z]
        values, counts = np.unique(plane[plane != 0], return_counts=True)
        voxels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    return voxels


def _size_text(voxels: Counter[int], value: LabelValue, image: Image) -> str:
    count = sum(voxels[member] for member in (value if isinstance(value, tuple) else (value,)))
    if image.unit == "pixel":
        return f"{count} pixels"
    ml = count * float(np.prod(image.spacing)) / 1000
    return f"{ml:.0f} ml" if ml >= 100 else f"{ml:.3g} ml"


@dataclass(frozen=True)
class _Row:
    """One case in its planes; ``errors``: the slices with most errors, in place of those with most foreground."""

    title: str
    image: Image
    reference: np.ndarray
    prediction: np.ndarray | None
    labels: Mapping[str, LabelValue]
    scores: Mapping[str, LabelScore] | None
    counts: SliceCounts
    errors: bool = False

    @property
    def predicted(self) -> np.ndarray:
        """The prediction; background where there is none."""
        return np.zeros_like(self.reference) if self.prediction is None else self.prediction

    @property
    def slices(self) -> list[int]:
        """The slice that is shown, in each plane."""
        chosen = self.counts.wrong_slice if self.errors else self.counts.labelled_slice
        return [chosen(plane) for plane in planes_of(self.image)]


def _save(path: Path, figure: Figure, texts: Mapping[str, str] | None = None) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", metadata=texts)


def _drawn(rows: Iterator[_Row], count: int, *, planes: int, predicted: bool) -> Figure:
    """Draw rows, each as it comes, so that the volumes of one case at a time are in memory.

    Args:
        rows: What is drawn.
        count: Number of rows.
        planes: Number of planes of each.
        predicted: Whether a case has a prediction, so that there is a panel of errors.
    """
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    inches = INCHES[planes]
    figure.set_size_inches(inches * (1 + planes + predicted) + INCHES_LEGEND, inches * count)
    figure.patch.set_facecolor("white")
    for part, row in zip(figure.subfigures(count, 1, squeeze=False)[:, 0], rows, strict=True):
        _draw_row(part, row, inches=inches, predicted=predicted)
        del row  # before the next one is read
    return figure


def _draw_row(part: SubFigure, row: _Row, *, inches: float, predicted: bool) -> None:
    part.suptitle(unformatted(row.title), x=0.02, ha="left", weight="bold")
    shown, slices = planes_of(row.image), row.slices
    values, reference, prediction = list(row.labels.values()), row.reference, row.predicted
    panels = part.subplots(1, 1 + len(shown) + predicted, squeeze=False)[0]
    empty, both = np.zeros_like(reference), (reference, prediction)
    draw_plane(panels[0], shown[0], row.image, empty, empty, values, inches=inches, index=slices[0], around=both)
    for axes, plane, index in zip(panels[1:], shown, slices, strict=False):
        draw_plane(axes, plane, row.image, reference, prediction, values, inches=inches, index=index)
    if predicted:
        index = row.counts.wrong_slice(shown[0])
        draw_errors(panels[-1], shown[0], row.image, reference, prediction, values, index)
    part.legend(handles=_legend(row.labels, row.scores), loc="outside right center", frameon=False)


def _planes_in(files: CaseFiles) -> int:
    """Number of planes of a case, by the header of its first file."""
    header = read_header(files.images[0])
    return 1 if header.grid.unit == "pixel" or 1 in header.shape else 3


def _read(
    title: str,
    files: CaseFiles,
    labels: Mapping[str, LabelValue],
    scores: Mapping[str, LabelScore] | None,
    names: Mapping[str, int] | None,
    instances: bool,
) -> _Row:
    image = filled(read_image(files.images))
    reference, prediction = (
        None if file is None else read_label(file, grid=image.native, names=names).array[0]
        for file in (files.reference, files.prediction)
    )
    assert reference is not None
    if instances:
        reference = as_foreground(reference)
        prediction = None if prediction is None else as_foreground(prediction)
    predicted = np.zeros_like(reference) if prediction is None else prediction
    counts = SliceCounts.of(reference, predicted, list(labels.values()))
    return _Row(title, image, reference, prediction, labels, scores, counts)


def _legend(labels: Mapping[str, LabelValue], case: Mapping[str, LabelScore] | None) -> list[Patch | Line2D]:
    names = labels if case is None else [f"{name}  {DICE.text(case[name].metrics['dice'])}" for name in labels]
    entries: list[Patch | Line2D] = [*colours_of(names)]
    entries.append(Line2D([], [], color="black", linewidth=1.3, label="reference"))
    if case is not None:
        entries.append(Patch(color="black", alpha=AREA_OPACITY, linewidth=0, label="prediction"))
        entries += [
            Patch(color=colour, alpha=ERROR_OPACITY, linewidth=0, label=kind) for kind, colour in ERRORS.items()
        ]
    return entries
