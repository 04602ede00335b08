"""How seconds and memory of planning, preprocessing and prediction grow with cases and with voxels.

Two series of made CTs with two labels: 10, 100 and 1,000 small cases of 69,120 voxels, and one case of 8, 64 and 512
million voxels (planned and preprocessed with a second one, its copy). Each stage is a command in processes of its own,
on one worker; the network is a light one, since its own time per voxel is constant. Finished stages are rows of
``bench/results/growth.csv``.

    python bench/growth.py
    python bench/growth.py --figure docs/growth.png --table
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from collections import defaultdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rows import append_rows, find_row, read_rows
from runner import HERE, RESULTS, commit, edit_plan
from vs_nnunet import SEGTL, SMALL_SHAPE, Stage, make_dataset, measure

from seg_transfer.util.environment import machine_text
from seg_transfer.util.files import whole_file

FILE = RESULTS / "growth.csv"
COLUMNS = ("series", "amount", "stage", "wall", "cpu", "memory_mb", "machine", "commit", "finished")
CASES = (10, 100, 1000)
SIDES = {8: 200, 64: 400, 512: 800}
"""Millions of voxels -> side of the cube."""
LABELS = 3
STAGES = ("plan", "preprocess", "predict")
LIGHT = {"model.patch": [32, 64, 64], "model.stages": 1, "model.slice_strides": [1], "model.decoder_channels": [8]}
LIGHT_RECIPE = {"recipe.strategy.start": [0.0], "recipe.strategy.rate": [1.0], "recipe.strategy.pretrained_stages": 0}


def light_model(work: Path) -> Path:
    """An exported model with a light network, trained for a few steps on small cases."""
    file, folder = work / "light.segtl", work / "light"
    if file.is_file():
        return file
    small = make_dataset(work / "cases 10", 10, SMALL_SHAPE, LABELS)
    options = ["--config", "3d", "--strategy", "scratch", "--epochs", "1"]
    log = work / "log.txt"
    measure(Stage("plan", "segtl", [*SEGTL, "plan", small, "-w", folder, *options], [folder]), log)
    edit_plan(folder / "plan.json", {**LIGHT, **LIGHT_RECIPE, "recipe.steps_per_epoch": 5, "recipe.tta_axes": []})
    measure(Stage("train", "segtl", [*SEGTL, "train", "full", "-w", folder, "--device", "cpu"]), log)
    measure(Stage("export", "segtl", [*SEGTL, "export", "-w", folder, "-o", file]), log)
    return file


def stages(dataset: Path, work: Path, model: Path, images: Path) -> list[Stage]:
    """Plan, preprocess and predict."""
    folder, out = work / "work", work / "out"
    plan = [*SEGTL, "plan", dataset, "-w", folder, "--config", "3d", "--workers", "1"]
    preprocess = [*SEGTL, "preprocess", "-w", folder, "--workers", "1"]
    predict = [*SEGTL, "predict", "-m", model, "-i", images, "-o", out, "--device", "cpu"]
    return [
        Stage("plan", "segtl", plan, [folder]),
        Stage("preprocess", "segtl", preprocess),
        Stage("predict", "segtl", predict, [out]),
    ]


def make_series(series: str, amount: int, work: Path) -> tuple[Path, Path]:
    """A data set of a series, and the images to predict."""
    folder = work / f"{series} {amount}"
    if series == "cases":
        dataset = make_dataset(folder, amount, SMALL_SHAPE, LABELS)
        return dataset, dataset / "imagesTr"
    side = SIDES[amount]
    if not (folder / "dataset.json").is_file():
        make_dataset(folder, 1, (side, side, side), LABELS)
        for name, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            shutil.copy(folder / name / f"ct_000{ending}", folder / name / f"ct_001{ending}")
        described = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(described | {"numTraining": 2}))
    return folder, folder / "imagesTr" / "ct_000_0000.nii.gz"


def run(series: str, amount: int, work: Path) -> None:
    """Do what is not done yet of one point of a series."""
    keys = [{"series": series, "amount": amount, "stage": stage} for stage in STAGES]
    if all(find_row(FILE, **key) for key in keys):
        return
    model = light_model(work)
    dataset, images = make_series(series, amount, work)
    for key, stage in zip(keys, stages(dataset, work / "point", model, images), strict=True):
        figures = measure(stage, work / "log.txt")
        if find_row(FILE, **key) is None:
            row = {**key, **figures, "machine": machine_text(), "commit": commit()}
            append_rows(FILE, COLUMNS, [row | {"finished": time.strftime("%Y-%m-%d %H:%M")}])
            print(key, figures, flush=True)
    shutil.rmtree(work / "point")
    if series == "voxels":
        shutil.rmtree(dataset)


def points() -> dict[tuple[str, str], list[tuple[int, float, float]]]:
    """Series and stage -> amount, CPU seconds and memory in MB, in order."""
    found: dict[tuple[str, str], list[tuple[int, float, float]]] = defaultdict(list)
    for row in read_rows(FILE):
        found[row["series"], row["stage"]].append((int(row["amount"]), float(row["cpu"]), float(row["memory_mb"])))
    return {key: sorted(values) for key, values in found.items()}


def table() -> str:
    """CPU seconds and memory at each point, and the exponent of the last step: 1 is a straight line."""
    lines = ["| series | stage | CPU s | exponent | memory, MB | exponent |", "|---|---|---|---|---|---|"]
    for (series, stage), values in sorted(points().items()):
        amounts, seconds, memory = zip(*values, strict=True)
        cells = [f"| {series} {', '.join(f'{each:,}' for each in amounts)} | {stage}"]
        for figures, text in ((seconds, "{:.1f}"), (memory, "{:.0f}")):
            slope = math.log(figures[-1] / figures[-2]) / math.log(amounts[-1] / amounts[-2]) if len(values) > 1 else 0
            cells.append(f"{', '.join(text.format(each) for each in figures)} | {slope:.2f}")
        lines.append(" | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """CPU seconds and memory of both series, on logarithmic axes, with a line of slope 1 through each last point."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    for column, (series, what) in enumerate((("cases", "small cases"), ("voxels", "million voxels of a case"))):
        for row, figure_of in enumerate(("CPU seconds", "memory, MB")):
            axes = panels[row][column]
            for stage in STAGES:
                values = points().get((series, stage), [])
                amounts, figures = [each[0] for each in values], [each[1 + row] for each in values]
                line = axes.loglog(amounts, figures, marker="o", label=stage)[0]
                if values and row == 0:
                    straight = [figures[-1] * amount / amounts[-1] for amount in amounts]
                    axes.loglog(amounts, straight, linestyle=":", color=line.get_color())
            axes.set_xlabel(what)
            axes.set_ylabel(figure_of)
            axes.grid(alpha=0.3, which="both")
    panels[0][0].legend()
    figure.suptitle("How planning, preprocessing and prediction grow; dotted: in proportion", fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=512, help="do no more million voxels than this")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder; 8 GB for the largest volumes")
    parser.add_argument("--table", action="store_true", help="print the table of finished stages, run nothing")
    parser.add_argument("--figure", type=Path, help="a .png file to draw finished stages into")
    options = parser.parse_args()
    work = (options.work / "growth").absolute()
    if not options.table:
        work.mkdir(parents=True, exist_ok=True)
        for series, amounts in (("cases", CASES), ("voxels", tuple(SIDES))):
            for amount in amounts:
                if series == "cases" or amount <= options.largest:
                    run(series, amount, work)
    print(table())
    if options.figure:
        draw(options.figure)


if __name__ == "__main__":
    main()
