"""What limits the Dice of hippocampus? One change at a time on some of five folds, at equal steps.

Trained on a fold's 160 cases in 3D, scored on the 40 that it holds out; everything is planned by default but
for the change and the number of steps. 4000 steps are 10 to 20 minutes on one core. ``2d+3d`` is the mean of the
probabilities of the ``2d`` and ``usual`` models, as of `segtl summary --ensembles`; it needs both in the scratch
folder. Finished runs are rows of ``bench/results/limits.csv``, with the Dice of each case; the table compares them,
over all folds that a run has.

    python bench/limits.py --only usual wide
    python bench/limits.py --only usual --epochs 64
    python bench/limits.py --only usual 2d 2d+3d --folds 0 1 2 3 4
    python bench/limits.py --table
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rows import Row, append_rows, figures_of, find_row, pairs_text, read_rows
from runner import DATA, DATA_HELP, HERE, RESULTS, commit, edit_plan, listed_and_others

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.training.run_folder import SCORES_FILE
from seg_transfer.util.environment import machine_text
from seg_transfer.util.statistics import mean_interval

DATASET, EPOCH = "hippocampus", 100
RUNS = RESULTS / "limits.csv"
ABOUT = ("configuration", "stages", "decoder_channels", "patch", "spacing", "batch_size", "plan_hash")
COLUMNS = ("name", "epochs", "fold", "seed", *ABOUT, "steps", "training_seconds", "dice", "cases", "machine", "commit")
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


def run(name: str, epochs: int, fold: int, seed: int, data: Path, work: Path) -> Row:
    """Do a run unless its row is there; the row."""
    key = {"name": name, "epochs": epochs, "fold": fold, "seed": seed}
    if known := find_row(RUNS, **key):
        return known
    shared = name in (*MEMBERS, ENSEMBLE)  # an ensemble's members lie in one work folder
    folder = work / f"{'members' if shared else name}-{epochs}-fold{fold}-seed{seed}"
    row = ensemble(folder, fold) if name == ENSEMBLE else trained(name, epochs, fold, seed, data, folder)
    row = {**key, **row, "machine": machine_text(), "commit": commit()}
    append_rows(RUNS, COLUMNS, [row])
    return {column: str(value) for column, value in row.items()}


def trained(name: str, epochs: int, fold: int, seed: int, data: Path, folder: Path) -> dict[str, object]:
    """Train and validate the fold; what the row says of it."""
    config = "2d" if name == "2d" else "3d"
    seg_transfer.plan(data / DATASET, work=folder, config=config, epochs=epochs, seed=seed)
    edit_plan(folder / "plan.json", {"recipe.steps_per_epoch": EPOCH, **VARIANTS[name]})
    (one,) = seg_transfer.train(str(fold), work=folder)
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


def ensemble(folder: Path, fold: int) -> dict[str, object]:
    """Score the mean of both members; what the row says of it."""
    seg_transfer.summary(work=folder, ensembles=True)
    (found,) = (folder / "ensembles").glob(f"*/fold_{fold}/{SCORES_FILE}")
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
    """Each run over its folds, as a Markdown table; differences are by case, against the first usual run of a seed.

    The last columns have the cases of the ``test`` list of ``bench/hippocampus.py``, and the others.
    """
    head = "| run | steps | seed | folds | anterior | posterior | mean Dice (95 % interval) "
    lines = [
        head + "| against usual, points (95 % interval) | `test` list | others |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in read_rows(RUNS):
        found.setdefault((row["name"], row["epochs"], row["seed"]), []).append(row)
    cases = {
        key: dict(dice for row in rows for dice in figures_of(row["cases"]).items()) for key, rows in found.items()
    }
    for (name, epochs, seed), rows in found.items():
        here = cases[name, epochs, seed]
        low, high = mean_interval(list(here.values()))
        usual = next((key for key in found if (key[0], key[2]) == (USUAL, seed)), None)
        against = "" if usual in (None, (name, epochs, seed)) else difference(here, cases[usual])
        mean = f"{statistics.fmean(here.values()):.4f} ({low:.4f} to {high:.4f})"
        of_fold = [figures_of(row["dice"]).values() for row in rows]
        anterior, posterior = (statistics.fmean(each) for each in zip(*of_fold, strict=True))
        inside, others = listed_and_others(here, DATASET)
        lines.append(
            f"| {name} | {int(epochs) * EPOCH} | {seed} | {len(rows)} | {anterior:.4f} | {posterior:.4f} | {mean} | "
            f"{against} | {inside:.4f} | {others:.4f} |"
        )
    return "\n".join(lines)


def difference(here: Mapping[str, float], there: Mapping[str, float]) -> str:
    """Mean difference in points over the cases that both have, with its interval."""
    points = [100 * (here[case] - there[case]) for case in here if case in there]
    low, high = mean_interval(points)
    return f"{statistics.fmean(points):+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    names = [*VARIANTS, ENSEMBLE]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="runs, in this order")
    parser.add_argument("--epochs", type=int, default=40, help=f"of {EPOCH} steps")
    parser.add_argument("--folds", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="print the table of finished runs, run nothing")
    options = parser.parse_args()
    runs = itertools.product(options.seeds, options.folds, [] if options.table else options.only)
    for seed, fold, name in runs:
        started = time.perf_counter()
        row = run(name, options.epochs, fold, seed, options.data, options.work / "limits")
        print(name, "fold", fold, "seed", seed, row["dice"], f"{time.perf_counter() - started:.0f} s", flush=True)
    print(table())


if __name__ == "__main__":
    main()
