"""What limits the Dice of hippocampus? One change at a time on the first of five folds, at equal steps.

Trained on the first fold's 160 cases in 3D, scored on the 40 that it holds out; everything is planned by default but
for the change and the number of steps. 4000 steps are about 20 minutes on one core. ``2d+3d`` is the mean of the
probabilities of the ``2d`` and ``usual`` models, as of `segtl summary --ensembles`; it needs both in the scratch
folder. Finished runs are rows of ``bench/results/limits.csv``, with the Dice of each case; the table compares them.

    python bench/limits.py --only usual wide
    python bench/limits.py --only usual --epochs 64
    python bench/limits.py --table
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rows import Row, append_rows, figures_of, find_row, pairs_text, read_rows
from runner import DATA, DATA_HELP, HERE, RESULTS, commit, edit_plan

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import SCORES_FILE
from seg_transfer.util.environment import machine_text
from seg_transfer.util.statistics import mean_interval

DATASET, FOLD, EPOCH = "hippocampus", "0", 100
RUNS = RESULTS / "limits.csv"
ABOUT = ("configuration", "stages", "decoder_channels", "patch", "spacing", "batch_size", "plan_hash")
COLUMNS = ("name", "epochs", "seed", *ABOUT, "steps", "training_seconds", "dice", "cases", "machine", "commit")
USUAL, ENSEMBLE, MEMBERS = "usual", "2d+3d", ("usual", "2d")


def doubled(values: list[int]) -> list[int]:
    return [2 * value for value in values]


def one_more(values: list[int]) -> list[int]:
    return [*values, 2 * values[-1]]


def repeated(values: list[Any]) -> list[Any]:
    return [*values, values[-1]]


def finer(spacing: list[float]) -> list[float]:
    return [0.75 * value for value in spacing]


VARIANTS: dict[str, dict[str, Any]] = {
    USUAL: {},
    "2d": {},
    "wide": {"model.decoder_channels": doubled},
    "batch-doubled": {"recipe.batch_size": lambda size: 2 * size},
    "four-stages": {
        "model.stages": 4,
        "model.decoder_channels": one_more,
        "model.slice_strides": repeated,
        "recipe.strategy.start": [0.3, 0.233, 0.167, 0.1],
        "recipe.strategy.rate": [0.219, 0.243, 0.27, 0.3],
        "recipe.strategy.pretrained_stages": 4,
    },
    "finer": {"data.spacing": finer},
    "no-mirroring": {"recipe.augmentation.mirror_axes": [], "recipe.tta_axes": []},
    "half-rate": {"recipe.learning_rate": 3e-3},
    "more-foreground": {"recipe.foreground_share": 1.0},
}
"""Edits of the plan; ``2d`` is planned so."""


def run(name: str, epochs: int, seed: int, data: Path, work: Path) -> Row:
    """Do a run unless its row is there; the row."""
    key = {"name": name, "epochs": epochs, "seed": seed}
    if known := find_row(RUNS, **key):
        return known
    shared = name in (*MEMBERS, ENSEMBLE)  # an ensemble's members lie in one work folder
    folder = work / f"{'members' if shared else name}-{epochs}-seed{seed}"
    row = ensemble(folder) if name == ENSEMBLE else trained(name, epochs, seed, data, folder)
    row = {**key, **row, "machine": machine_text(), "commit": commit()}
    append_rows(RUNS, COLUMNS, [row])
    return {column: str(value) for column, value in row.items()}


def trained(name: str, epochs: int, seed: int, data: Path, folder: Path) -> dict[str, object]:
    """Train and validate the fold; what the row says of it."""
    config = "2d" if name == "2d" else "3d"
    seg_transfer.plan(data / DATASET, work=folder, config=config, epochs=epochs, seed=seed)
    edit_plan(folder / "plan.json", {"recipe.steps_per_epoch": EPOCH, **VARIANTS[name]})
    (one,) = seg_transfer.train(FOLD, work=folder)
    assert one.scores is not None, "the fold holds cases out"
    result = json.loads((one.folder / "manifest.json").read_text())["result"]
    plan = Plan.load(folder / "plan.json")
    return {
        "configuration": plan.model.configuration,
        "stages": plan.model.stages,
        "decoder_channels": " ".join(map(str, plan.model.decoder_channels)),
        "patch": "x".join(map(str, plan.model.patch)),
        "spacing": "x".join(f"{value:g}" for value in plan.data.spacing),
        "batch_size": plan.recipe.batch_size,
        "plan_hash": plan.hash,
        "steps": result["steps"],
        "training_seconds": round(result["seconds"], 1),
        **dice_of(one.scores),
    }


def ensemble(folder: Path) -> dict[str, object]:
    """Score the mean of both members; what the row says of it."""
    seg_transfer.summary(work=folder, ensembles=True)
    (found,) = (folder / "ensembles").glob(f"*/fold_{FOLD}/{SCORES_FILE}")
    return {"configuration": ENSEMBLE, **dice_of(Scores.load(found))}


def dice_of(scores: Scores) -> dict[str, object]:
    """The mean Dice of each label, and of each case."""
    of_case = {
        case: round(statistics.fmean(score.metrics["dice"] for score in labels.values()), 4)
        for case, labels in scores.cases.items()
    }
    means = {label: round(dice, 4) for label, dice in scores.label_dice.items()}
    return {"dice": pairs_text(means), "cases": pairs_text(of_case)}


def table() -> str:
    """The rows as a Markdown table; differences are by case, against the first usual run of the same seed."""
    lines = ["| run | steps | seed | mean Dice | against usual, points (95 % interval) | training, s |"]
    lines.append("|---|---|---|---|---|---|")
    rows = read_rows(RUNS)
    for row in rows:
        usual = next((each for each in rows if (each["name"], each["seed"]) == (USUAL, row["seed"])), None)
        mean = statistics.fmean(figures_of(row["dice"]).values())
        against = "" if usual is None or usual is row else difference(row, usual)
        steps = row["steps"] or "both's"
        lines.append(
            f"| {row['name']} | {steps} | {row['seed']} | {mean:.4f} | {against} | {row['training_seconds']} |"
        )
    return "\n".join(lines)


def difference(row: Mapping[str, str], usual: Mapping[str, str]) -> str:
    """Mean difference in points over the cases, with its interval."""
    here, there = figures_of(row["cases"]), figures_of(usual["cases"])
    points = [100 * (here[case] - there[case]) for case in there]
    low, high = mean_interval(points)
    return f"{statistics.fmean(points):+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    names = [*VARIANTS, ENSEMBLE]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="runs, in this order")
    parser.add_argument("--epochs", type=int, default=40, help=f"of {EPOCH} steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="print the table of finished runs, run nothing")
    options = parser.parse_args()
    for seed in options.seeds:
        for name in [] if options.table else options.only:
            started = time.perf_counter()
            row = run(name, options.epochs, seed, options.data, options.work / "limits")
            print(name, "seed", seed, row["dice"], f"{time.perf_counter() - started:.0f} s", flush=True)
    print(table())


if __name__ == "__main__":
    main()
