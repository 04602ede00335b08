"""Scores as CSV and as tables for the terminal."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from rich import box
from rich.table import Table

from seg_transfer.evaluation.metrics import METRICS
from seg_transfer.evaluation.scores import COUNTS, Scores
from seg_transfer.util.files import whole_file

DICE = METRICS["dice"]
WITHOUT_LABEL = (
    ("false negative", "prediction_empty"),
    ("false positive", "reference_empty"),
    ("absent in both", "both_empty"),
)
"""Head of a column of the summary -> field of ``LabelSummary`` that it shows."""


def save_csv(scores: Scores, path: Path) -> None:
    """Write one row per case and label or region; an undefined metric is an empty cell."""
    metrics = scores.columns
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "label", "value", *metrics, *COUNTS, "empty"])
        for case, of_label in scores.cases.items():
            for name, score in of_label.items():
                figures = (score.metrics.get(metric, math.nan) for metric in metrics)
                cells = ["" if math.isnan(figure) else figure for figure in figures]
                counts = [getattr(score, count) for count in COUNTS]
                value = scores.labels[name]
                values = " ".join(map(str, value)) if isinstance(value, tuple) else value
                writer.writerow([case, name, values, *cells, *counts, score.empty])


def summary_table(scores: Scores) -> Table:
    """One row per label: means over the cases in which a metric is defined, and how many cases lack the label.

    Columns that count cases without a label are left out if all their values are 0.
    """
    notes = [f"not scored: {case}: {cause}" for case, cause in scores.failures.items()]
    if scores.without_reference:
        notes.append(f"predicted but without a reference: {', '.join(scores.without_reference)}")
    table = Table(
        title=f"{len(scores.cases)} cases; mean Dice {DICE.text(scores.mean_dice)}",
        caption="\n".join(notes) or None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    summary, metrics = scores.summary, scores.columns
    counts = {head: field for head, field in WITHOUT_LABEL if any(getattr(label, field) for label in summary.values())}
    heads = []
    for metric in metrics.values():
        heads.append(metric.title(scores.unit, scores.tolerance))
        if metric.has_spread:
            heads.append("median")
    table.add_column("label")
    for head in (*heads, *counts):
        table.add_column(head, justify="right", no_wrap=True)
    for name, label in summary.items():
        cells = []
        for key, metric in metrics.items():
            figures = label.metrics[key]
            cells.append(metric.text(figures.mean))
            if metric.has_spread:
                if figures.cases:
                    cells[-1] += f" ± {metric.text(figures.std)}"
                cells.append(metric.text(figures.median))
        table.add_row(name, *cells, *(str(getattr(label, field)) for field in counts.values()))
    return table


def cases_table(scores: Scores) -> Table:
    """One row per case, worst first: its Dice per label."""
    table = Table(title="Dice per case, worst first", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("case")
    for head in ("mean", *scores.labels):
        table.add_column(head, justify="right")
    for case in sorted(scores.cases, key=lambda case: (math.isnan(scores.case_dice(case)), scores.case_dice(case))):
        dice = (scores.cases[case][name].metrics["dice"] for name in scores.labels)
        table.add_row(case, *map(DICE.text, (scores.case_dice(case), *dice)))
    return table
