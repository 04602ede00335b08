"""Scores for people and spreadsheets: CSV and tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from rich import box
from rich.table import Table

from seg_transfer.evaluation.scores import METRICS, Scores
from seg_transfer.util.files import whole_file

COUNTS = ("prediction_voxels", "reference_voxels")
MISSING = (("missed", "prediction_empty"), ("made up", "reference_empty"), ("in neither", "both_empty"))


def save_csv(scores: Scores, path: Path) -> None:
    """Write one row per case and label, of a region with all of its values; an undefined figure is an empty cell."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "label", "value", *METRICS, *COUNTS, "empty"])
        for case, of_label in scores.cases.items():
            for name, score in of_label.items():
                figures = [getattr(score, metric) for metric in METRICS]
                cells = ["" if math.isnan(figure) else figure for figure in figures]
                counts = [getattr(score, count) for count in COUNTS]
                value = scores.labels[name]
                values = " ".join(map(str, value)) if isinstance(value, tuple) else value
                writer.writerow([case, name, values, *cells, *counts, score.empty])


def summary_table(scores: Scores) -> Table:
    """One row per label: means over the cases in which the metric is defined, and how many cases lack the label.

    The columns about missing labels are left out where no case lacks one.
    """
    table = Table(
        title=f"{len(scores.cases)} cases; mean Dice {_number(scores.mean_dice, 3)}",
        caption=_caption(scores),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    counts = [
        (head, field) for head, field in MISSING if any(getattr(label, field) for label in scores.summary.values())
    ]
    table.add_column("label", overflow="fold")
    volume = "ml" if scores.unit == "mm" else "pixels"
    surface = (f"HD95 {scores.unit}", f"NSD {scores.tolerance:g} {scores.unit}")
    for head in ("Dice", "median", "IoU", *surface, f"± {volume}", "± %", *(head for head, _ in counts)):
        table.add_column(head, justify="right", no_wrap=True)
    for name, label in scores.summary.items():
        table.add_row(
            name,
            "–" if label.dice.cases == 0 else f"{label.dice.mean:.3f} ± {label.dice.std:.3f}",
            _number(label.dice.median, 3),
            _number(label.iou.mean, 3),
            _number(label.hd95.mean, 1),
            _number(label.nsd.mean, 3),
            _signed(label.volume_difference.mean),
            _signed(100 * label.relative_volume_difference.mean),
            *(str(getattr(label, field)) for _, field in counts),
        )
    return table


def cases_table(scores: Scores) -> Table:
    """One row per case, worst first: its Dice per label."""
    table = Table(title="Dice per case, worst first", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("case", overflow="fold")
    for head in ("mean", *scores.labels):
        table.add_column(head, justify="right")
    for case in sorted(scores.cases, key=lambda case: (math.isnan(scores.case_dice(case)), scores.case_dice(case))):
        dice = (_number(scores.cases[case][name].dice, 3) for name in scores.labels)
        table.add_row(case, _number(scores.case_dice(case), 3), *dice)
    return table


def _caption(scores: Scores) -> str | None:
    notes = [f"not scored: {case}: {cause}" for case, cause in scores.failures.items()]
    if scores.without_reference:
        notes.append(f"predicted but without a reference: {', '.join(scores.without_reference)}")
    return "\n".join(notes) or None


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"
