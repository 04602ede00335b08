"""The learning curve: mean Dice by number of training cases, after the same time of training.

Three methods: ``planned`` (everything segtl's own choice but for the time), ``scratch`` (the same with
``--strategy scratch``) and ``nnunet`` (``bench/nnunet.py``; needs ``--nnunet``, the virtual environment that it is
installed in). Training steps of all three take ``--minutes`` on the same cores; planning (with the evidence that it
gathers), preprocessing, validation, prediction and nnU-Net's calibration are not counted. nnU-Net's length is set
beforehand by its calibration, so where the machine's speed drifts it trains longer or shorter than that: the table
gives the seconds it took. Both tools are at their defaults: nnU-Net predicts with mirroring and computes in float32 on
a CPU. Where there is a GPU, all three train on it. nnU-Net has no seed: there it is another run.

    python bench/curve.py --nnunet VENV --parallel 2
    python bench/curve.py --table --figure docs/curve.png

Training cases are the data sets' own nested lists, scored are 40 development cases of the longest list that are in none
of the shorter ones (:func:`runner.held_out`). Outside these lists there are only ``test`` cases, so the longest one is
trained on without the 40: 120 cases of hippocampus in place of 160, 110 of cells in place of 150. Of abdomen MR the 10
are 5 to train on and 5 to score.

The ``test`` cases are not touched without ``--release``: with it the longest lists are trained on whole, and the
``test`` cases are scored. Finished runs are kept in ``bench/results/curve.csv``, with
``--release`` in ``curve_test.csv``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from curve_table import METHODS, curve_table, draw_curve
from nnunet import COLUMNS as NNUNET_COLUMNS
from nnunet import NNUNet, run_nnunet
from rows import Row, find_row, read_rows
from runner import COLUMNS as RUN_COLUMNS
from runner import RESULTS, BenchRun, add_result, arguments, held_out, in_processes, link_cases, lists_of, run_one

from seg_transfer.evaluation.score_files import evaluate_folders
from seg_transfer.util.environment import resolve_device

COLUMNS = (*RUN_COLUMNS[:-3], *NNUNET_COLUMNS, *RUN_COLUMNS[-3:])
MINUTES = 5
SIZES = {
    "hippocampus": ("5", "10", "20", "40", "160"),
    "cells": ("5", "10", "20", "40", "150"),
    "abdomen_mr": ("5", "10"),
}
OPTIONS: dict[str, dict[str, Any]] = {"planned": {}, "scratch": {"strategy": "scratch"}, "nnunet": {}}
CONFIGURATIONS = {"abdomen_mr": "2d", "hippocampus": "3d_fullres", "cells": "2d"}
"""Of nnU-Net; on abdomen MR the one that does more steps in the time."""


def case_lists(splits: dict[str, Any], sizes: tuple[str, ...], *, release: bool) -> tuple[list[list[str]], list[str]]:
    """The training cases of each size, no list twice, and the cases to score, which are in none of them."""
    lists = splits["few_shot"]
    scored = splits["test"] if release else held_out(lists)
    trained = [tuple(case for case in lists[size] if case not in scored) for size in sizes]
    return list(map(list, dict.fromkeys(trained))), scored


def runs(data: Path, minutes: float, *, release: bool) -> list[tuple[BenchRun, str]]:
    """Every run with its method, the fewest training cases first."""
    made = []
    for name, sizes in SIZES.items():
        dataset = data / name
        trained, scored = case_lists(lists_of(name), sizes, release=release)
        for train in trained:
            for method in METHODS:
                one = BenchRun(
                    name=f"{name}-{len(train)}-{method}-{minutes:g}min",
                    dataset=dataset,
                    train=train,
                    test=scored,
                    options={"time_budget": minutes * 60, **OPTIONS[method]},
                )
                made.append((one, method))
    return sorted(made, key=lambda pair: len(pair[0].train))


def run_method(run: BenchRun, method: str, results: Path, work: Path, seed: int, venv: Path) -> Row:
    """Do a run with its method unless its row is there; returns the row."""
    if method != "nnunet":
        return run_one(run, results, work, seed, COLUMNS)
    known = find_row(results, name=run.name, seed=seed)
    if known is not None:
        return known
    folder = work / f"{run.name}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    images, labels = link_cases(run.dataset, run.test, folder / "test")
    device, _, _ = resolve_device("auto").partition(":")
    nnunet = NNUNet(venv.absolute(), folder.absolute(), CONFIGURATIONS[run.dataset.name], device)
    about = run_nnunet(nnunet, run.dataset, run.train, images.absolute(), run.options["time_budget"])
    named = json.loads((run.dataset / "dataset.json").read_text())["labels"]
    scores = evaluate_folders(folder / "predictions", labels, labels=named)
    if scores.failures:
        raise RuntimeError(f"{run.name}: {scores.failures}")
    row = add_result(results, COLUMNS, run, seed, about, scores, started)
    shutil.rmtree(folder)
    return row


def run_methods(options: argparse.Namespace, results: Path) -> None:
    """Do the runs that the options choose, ``--parallel`` of them at a time."""
    chosen = [
        (run, method)
        for run, method in runs(options.data, options.minutes, release=options.release)
        if options.only in run.name
    ]
    if options.nnunet is None:
        for run, _ in (pair for pair in chosen if pair[1] == "nnunet"):
            print(f"{run.name} is skipped: --nnunet does not say where nnU-Net is installed")
        chosen = [pair for pair in chosen if pair[1] != "nnunet"]
    work = options.work / results.stem
    todo = [(*pair, results, work, seed, options.nnunet) for seed in options.seeds for pair in chosen]
    for row in in_processes(run_method, todo, options.parallel):
        print(row["dice"], row["name"], "seed", row["seed"], flush=True)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="training time of a run")
    parser.add_argument(
        "--nnunet", type=Path, help="virtual environment with nnunetv2; without it its runs are skipped"
    )
    parser.add_argument("--release", action="store_true", help="train on the whole lists and score the test cases")
    parser.add_argument("--figure", type=Path, help="PNG to draw finished runs into; run nothing")
    options = parser.parse_args()
    results = RESULTS / ("curve_test.csv" if options.release else "curve.csv")
    if not (options.table or options.figure):
        run_methods(options, results)
    done = [row for row in read_rows(results) if row["name"].endswith(f"-{options.minutes:g}min")]
    print(curve_table(done))
    if options.figure:
        draw_curve(options.figure, done)
    print("\n" + "; ".join(sorted({r["machine"] for r in done})))


if __name__ == "__main__":
    main()
