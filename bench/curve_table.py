"""Table and figure of the learning curve, from the results of ``bench/curve.py``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import Row, figures_of

from seg_transfer.util.files import whole_file

METHODS = {"planned": "segtl's plan", "scratch": "segtl from scratch", "nnunet": "nnU-Net"}
BELOW = 0.05
"""The figure's floor under segtl's lowest Dice; lower ones are drawn on it with their figure, so that lines above stay
apart."""
STYLES = {"planned": ("#c1432e", "-"), "scratch": ("#2e6fc1", "--"), "nnunet": ("#3c8c4a", "-.")}

Curve = dict[int, dict[str, list[Row]]]
"""Training cases -> method -> results, one for each seed."""


def curves(results: Iterable[Row]) -> dict[str, Curve]:
    """Data set -> its curve; data sets and sizes in order."""
    found: dict[str, Curve] = {}
    for result in sorted(results, key=_order):
        dataset, _, method, _ = result["name"].split("-")
        by_method = found.setdefault(dataset, {}).setdefault(int(result["train_cases"]), {})
        by_method.setdefault(method, []).append(result)
    return found


def _order(row: Row) -> tuple[str, int, int]:
    return row["name"].split("-")[0], int(row["train_cases"]), int(row["seed"])


def mean_dice(result: Row) -> float:
    """Over labels."""
    return statistics.mean(figures_of(result["dice"]).values())


def curve_table(results: Iterable[Row]) -> str:
    """Mean Dice over labels and seeds, what segtl chose, steps and seconds of training, as Markdown."""
    lines = [
        "| data set | training cases | seeds | " + " | ".join(METHODS.values()) + " | the plan | steps | training, s |",
        "|---" * (6 + len(METHODS)) + "|",
    ]
    for dataset, curve in curves(results).items():
        for size, ran in curve.items():
            present = [ran.get(method, []) for method in METHODS]
            means = [f"{statistics.mean(map(mean_dice, found)):.3f}" if found else "–" for found in present]
            chosen = dict.fromkeys(f"{one['configuration']} {one['strategy']}" for one in ran.get("planned", []))
            columns = [
                dataset,
                str(size),
                "/".join(str(len(found)) for found in present),
                *means,
                ", ".join(chosen) or "–",
                *("/".join(_median(found, name) for found in present) for name in ("steps", "training_seconds")),
            ]
            lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _median(results: list[Row], name: str) -> str:
    return f"{statistics.median(float(one[name]) for one in results):.0f}" if results else "–"


def draw_curve(path: Path, results: Iterable[Row]) -> None:
    """A panel per data set, mean Dice over training cases, a line through the means of each method; every seed a dot.

    Args:
        path: A .png file.
        results: At least one.
    """
    found = curves(results)
    figure = Figure(figsize=(5.2 * len(found), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (dataset, curve) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        mine = [
            mean_dice(one) for ran in curve.values() for name in ("planned", "scratch") for one in ran.get(name, [])
        ]
        floor = min(mine, default=BELOW) - BELOW
        for method, name in METHODS.items():
            colour, line = STYLES[method]
            dots = {size: [mean_dice(one) for one in ran[method]] for size, ran in curve.items() if method in ran}
            means = [statistics.mean(each) for each in dots.values()]
            axes.plot(list(dots), means, color=colour, linestyle=line, label=name)
            pairs = [(size, dice) for size, each in dots.items() for dice in each]
            axes.plot([size for size, _ in pairs], [dice for _, dice in pairs], "o", color=colour, markersize=4)
            for size, dice in pairs:
                if dice < floor:
                    axes.plot(size, floor, "v", color=colour, clip_on=False)
                    axes.annotate(
                        f"{dice:.2f}", (size, floor), (0, 7), textcoords="offset points", ha="center", fontsize=8
                    )
        if any(mean_dice(one) < floor for ran in curve.values() for each in ran.values() for one in each):
            axes.set_ylim(bottom=floor)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(curve), [str(size) for size in curve], minor=False)
        minutes = dict.fromkeys(
            one["name"].rsplit("-", 1)[1] for ran in curve.values() for each in ran.values() for one in each
        )
        axes.set_title(f"{dataset}, {', '.join(minutes).replace('min', ' min')} of training")
        axes.set_xlabel("training cases")
        axes.set_ylabel("mean Dice")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
