"""What 1,000, 100,000 and 10 million volumes cost, by a model fitted to the measurements of ``bench/growth.py``.

CPU seconds of a stage are start + cases x a + voxels x b, and for prediction + windows x w; memory of a process is
start + voxels of the largest case x c. All are at least 0 and have the least squares of relative errors over
``results/growth.csv``.
The script measures a size that the fit has not seen, with the bytes of its files, and compares. The network's own time
comes from ``results/vs_nnunet.csv``: ``growth.py`` predicts with a light one.

    python bench/scale.py
    python bench/scale.py --table
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from growth import FILE as GROWTH
from growth import LABELS, LIGHT, SIDES, STAGES, light_model, stages
from rows import Row, append_rows, find_row, read_rows
from runner import HERE, RESULTS, commit
from scipy.optimize import nnls
from vs_nnunet import SMALL_SHAPE, make_dataset, measure

from seg_transfer.inference.windows import window_starts
from seg_transfer.util.environment import machine_text

FILE = RESULTS / "scale.csv"
COLUMNS = ("stage", "cases", "voxels", "wall", "cpu", "memory_mb", "files", "bytes", "machine", "commit", "finished")
HELD_OUT, SHAPE = 12, (192, 192, 96)
"""Cases and their shape, which the fit has not seen."""
VOLUME = (512, 512, 300)
"""Shape of the volumes whose cost is told."""
AMOUNTS = (1_000, 100_000, 10_000_000)
LARGE_CT, NETWORK = "512 x 512 x 400, 5 labels", "predict a large CT, but for the network"


Shape = tuple[int, int, int]


class Point(NamedTuple):
    """A measurement: cases, their shape (x, y, z), CPU seconds, and memory in MB."""

    cases: int
    shape: Shape
    cpu: float
    memory_mb: float


def fitted_points(stage: str) -> list[Point]:
    """What ``growth.py`` has measured of a stage."""
    points = []
    for row in read_rows(GROWTH):
        if row["stage"] == stage:
            amount = int(row["amount"])
            if row["series"] == "cases":
                cases, shape = amount, SMALL_SHAPE
            else:
                cases, shape = 1 if stage == "predict" else 2, (SIDES[amount],) * 3
            points.append(Point(cases, shape, float(row["cpu"]), float(row["memory_mb"])))
    return points


def fit(terms: list[tuple[float, ...]], values: list[float]) -> np.ndarray:
    """Coefficients of at least 0 with the least squares of relative errors."""
    weights = 1 / np.array(values)
    return nnls(np.array(terms) * weights[:, np.newaxis], np.ones(len(values)))[0]


def cpu_terms(stage: str, cases: int, shape: Shape) -> tuple[float, ...]:
    """What the seconds are proportional to: 1, cases, million voxels, and for prediction windows."""
    terms = 1.0, float(cases), cases * math.prod(shape) / 1e6
    if stage != "predict":
        return terms
    counts = [len(window_starts(size, window)) for size, window in zip(shape[::-1], LIGHT["model.patch"], strict=True)]
    return *terms, float(cases * math.prod(counts))


def memory_terms(shape: Shape) -> tuple[float, ...]:
    return 1.0, math.prod(shape) / 1e6


class Stage(NamedTuple):
    """The fitted model of a stage.

    Attributes:
        name: Of the stage.
        cpu: Seconds for each of :func:`cpu_terms`.
        memory: MB to start, and per million voxels of the largest case.
    """

    name: str
    cpu: np.ndarray
    memory: np.ndarray

    def seconds(self, cases: int, shape: Shape) -> float:
        return float(self.cpu @ cpu_terms(self.name, cases, shape))

    def megabytes(self, shape: Shape) -> float:
        return float(self.memory @ memory_terms(shape))


def fitted() -> dict[str, Stage]:
    """The model of every stage."""
    found = {}
    for stage in STAGES:
        points = fitted_points(stage)
        cpu = fit([cpu_terms(stage, each.cases, each.shape) for each in points], [each.cpu for each in points])
        memory = fit([memory_terms(each.shape) for each in points], [each.memory_mb for each in points])
        found[stage] = Stage(stage, cpu, memory)
    return found


def measure_held_out(work: Path) -> None:
    """Run the stages on a size that the fit has not seen; the rows tell the bytes of what each has made."""
    if all(find_row(FILE, stage=stage) for stage in STAGES):
        return
    model = light_model(work)
    dataset = make_dataset(work / "held out", HELD_OUT, SHAPE, LABELS)
    point = work / "point"
    made = {"plan": point / "work", "preprocess": point / "work" / "preprocessed", "predict": point / "out"}
    sizes = [("images", dataset / "imagesTr"), ("labels", dataset / "labelsTr")]
    for stage in stages(dataset, point, model, dataset / "imagesTr"):
        figures = measure(stage, work / "log.txt")
        _add(stage.name, figures, made[stage.name])
    for name, folder in sizes:
        _add(name, {}, folder)
    record = point / "out" / "predictions.json"
    _add("record of predictions", {}, record)
    shutil.rmtree(point)


def _add(stage: str, figures: dict[str, float], made: Path) -> None:
    files = [made] if made.is_file() else [path for path in made.rglob("*") if path.is_file()]
    row = {"stage": stage, "cases": HELD_OUT, "voxels": math.prod(SHAPE), **figures, "files": len(files)}
    row |= {"bytes": sum(path.stat().st_size for path in files), "machine": machine_text(), "commit": commit()}
    append_rows(FILE, COLUMNS, [row | {"finished": time.strftime("%Y-%m-%d %H:%M")}])


def model_table(model: dict[str, Stage]) -> str:
    """The fitted figures, and the held-out size as expected and as measured."""
    lines = [
        "| stage | start, CPU s | ms a case | ms a million voxels | ms a window | start, MB | MB a million voxels "
        "| held out: CPU s expected, measured | MB expected, measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, stage in model.items():
        start, *others = stage.cpu
        times = [f"{1000 * each:.1f}" for each in others]
        cells = [f"{start:.1f}", *times, *[""] * (3 - len(times)), *(f"{each:.1f}" for each in stage.memory)]
        if row := find_row(FILE, stage=name):
            cells.append(f"{stage.seconds(HELD_OUT, SHAPE):.1f}, {float(row['cpu']):.1f}")
            cells.append(f"{stage.megabytes(SHAPE):.0f}, {float(row['memory_mb']):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def network_seconds() -> float:
    """CPU seconds of the default network per million voxels, with mirroring, on the large CT."""
    row = find_row(RESULTS / "vs_nnunet.csv", data=LARGE_CT, stage=NETWORK, tool="segtl")
    assert row is not None
    return int(row["passes"]) * float(row["pass_cpu"]) / (512 * 512 * 400 / 1e6)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.3g}" if seconds < 3600 * 1000 else f"{seconds / 3600:,.0f}"


def _bytes(count: float) -> str:
    unit = int(min(5, math.log10(max(count, 1)) // 3))
    return f"{count / 1000**unit:.3g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[unit]}"


def cost_table(model: dict[str, Stage]) -> str:
    """Core hours and bytes of so many volumes."""
    voxels = math.prod(VOLUME)
    rows = {row["stage"]: row for row in read_rows(FILE)}
    heads = " | ".join(f"{amount:,}" for amount in AMOUNTS)
    lines = [f"| {' x '.join(map(str, VOLUME))}, core hours or bytes | {heads} |", "|---|" + "---|" * len(AMOUNTS)]
    for name, stage in model.items():
        told = "predict, light network" if name == "predict" else name
        lines.append(f"| {told} | {' | '.join(_hours(stage.seconds(each, VOLUME)) for each in AMOUNTS)} |")
    network = network_seconds() * voxels / 1e6
    lines.append(f"| the default network, on a CPU | {' | '.join(_hours(network * each) for each in AMOUNTS)} |")
    for name, told in (("images", "images"), ("preprocess", "preprocessed store"), ("predict", "label maps")):
        per_voxel = _per_case(rows[name]) / int(rows[name]["voxels"])
        lines.append(f"| {told} | {' | '.join(_bytes(per_voxel * voxels * each) for each in AMOUNTS)} |")
    record = _per_case(rows["record of predictions"])
    lines.append(f"| `predictions.json` | {' | '.join(_bytes(record * each) for each in AMOUNTS)} |")
    memory = [f"{name} {stage.megabytes(VOLUME):,.0f} MB" for name, stage in model.items()]
    return "\n".join([*lines, "", f"Memory of a process: {', '.join(memory)}."])


def _per_case(row: Row) -> float:
    return int(row["bytes"]) / int(row["cases"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--table", action="store_true", help="print the tables, measure nothing")
    options = parser.parse_args()
    if not options.table:
        work = (options.work / "growth").absolute()
        work.mkdir(parents=True, exist_ok=True)
        measure_held_out(work)
    model = fitted()
    print(f"{model_table(model)}\n\n{cost_table(model)}")


if __name__ == "__main__":
    main()
