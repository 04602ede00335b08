"""The learning curve: mean Dice by number of training cases, after the same time of training.

Three methods: ``planned`` (everything segtl's own choice but for the time), ``scratch`` (the same with
``--strategy scratch``) and ``nnunet`` (``bench/nnunet.py``; needs ``--nnunet``, the virtual environment that it is
installed in). Training steps of all three take ``--minutes`` on the same cores; planning (with the evidence that it
gathers), preprocessing, validation, prediction and nnU-Net's calibration are not counted. nnU-Net's length is set
beforehand by its calibration, so where the machine's speed drifts it trains longer or shorter than that: the table
gives the seconds it took. Both tools are at their defaults: nnU-Net predicts with mirroring and computes in float32 on
a CPU. nnU-Net has no seed: there it is another run.

    python bench/curve.py --nnunet VENV --parallel 2
    python bench/curve.py --table --figure docs/curve.png

Training cases are the data sets' own nested lists, scored are 40 development cases of the longest list that are in none
of the shorter ones (:func:`cells.held_out`). Outside these lists there are only ``test`` cases, so the longest one is
trained on without the 40: 120 cases of hippocampus in place of 160, 110 of cells in place of 150.

The ``test`` cases are not touched without ``--release``: with it the longest lists are trained on whole, the ``test``
cases are scored, and the results are kept below ``test/`` in ``bench/results/curve``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from cells import HERE, Cell, arguments, held_out, in_processes, link_cases, lists_of, run_cell, write_result
from curve_table import METHODS, curve_table, draw_curve
from nnunet import NNUNet, run_nnunet

from seg_transfer.evaluation.score_files import evaluate_folders

RESULTS = HERE / "results" / "curve"
MINUTES = 5
SIZES = {"hippocampus": ("5", "10", "20", "40", "160"), "cells": ("5", "10", "20", "40", "150")}
OPTIONS: dict[str, dict[str, Any]] = {"planned": {}, "scratch": {"strategy": "scratch"}, "nnunet": {}}
CONFIGURATIONS = {"hippocampus": "3d_fullres", "cells": "2d"}
"""Of nnU-Net."""


def case_lists(splits: dict[str, Any], sizes: tuple[str, ...], *, release: bool) -> tuple[list[list[str]], list[str]]:
    """The training cases of each size, and the cases to score, which are in none of them."""
    lists = splits["few_shot"]
    scored = splits["test"] if release else held_out(lists)
    return [[case for case in lists[size] if case not in scored] for size in sizes], scored


def cells(data: Path, minutes: float, *, release: bool) -> list[tuple[Cell, str]]:
    """Every cell with its method, the fewest training cases first."""
    made = []
    for name, sizes in SIZES.items():
        dataset = data / name
        trained, scored = case_lists(lists_of(name), sizes, release=release)
        for train in trained:
            for method in METHODS:
                cell = Cell(
                    name=f"{name}-{len(train)}-{method}-{minutes:g}min",
                    dataset=dataset,
                    train=train,
                    test=scored,
                    options={"time_budget": minutes * 60, **OPTIONS[method]},
                )
                made.append((cell, method))
    return sorted(made, key=lambda pair: len(pair[0].train))


def run(cell: Cell, method: str, results: Path, work: Path, seed: int, venv: Path) -> dict[str, Any]:
    """Run a cell with its method unless its result is there; returns the result."""
    if method != "nnunet":
        return run_cell(cell, results, work, seed)
    path = results / f"{cell.name}-seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    folder = work / f"{cell.name}-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    images, labels = link_cases(cell.dataset, cell.test, folder / "test")
    nnunet = NNUNet(venv.absolute(), folder.absolute(), CONFIGURATIONS[cell.dataset.name])
    ran = run_nnunet(nnunet, cell.dataset, cell.train, images.absolute(), cell.options["time_budget"])
    named = json.loads((cell.dataset / "dataset.json").read_text())["labels"]
    scores = evaluate_folders(folder / "predictions", labels, labels=named)
    if scores.failures:
        raise RuntimeError(f"{cell.name}: {scores.failures}")
    result = write_result(path, cell, seed, ran, scores, started)
    shutil.rmtree(folder)
    return result


def run_all(options: argparse.Namespace, results: Path) -> None:
    """Run the cells that the options choose, ``--parallel`` of them at a time."""
    chosen = [
        (cell, method)
        for cell, method in cells(options.data, options.minutes, release=options.release)
        if options.only in cell.name
    ]
    if options.nnunet is None:
        for cell, _ in (pair for pair in chosen if pair[1] == "nnunet"):
            print(f"{cell.name} is skipped: --nnunet does not say where nnU-Net is installed")
        chosen = [pair for pair in chosen if pair[1] != "nnunet"]
    work = options.work / "curve" / ("test" if options.release else "development")
    todo = [(*pair, results, work, seed, options.nnunet) for seed in options.seeds for pair in chosen]
    for result in in_processes(run, todo, options.parallel):
        print(json.dumps(result["dice"]), result["cell"], "seed", result["seed"], flush=True)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="training time of a cell")
    parser.add_argument(
        "--nnunet", type=Path, help="virtual environment with nnunetv2; without it its cells are skipped"
    )
    parser.add_argument("--release", action="store_true", help="train on the whole lists and score the test cases")
    parser.add_argument("--figure", type=Path, help="PNG to draw what is done into; run nothing")
    options = parser.parse_args()
    results = RESULTS / "test" if options.release else RESULTS
    if not (options.table or options.figure):
        run_all(options, results)
    done = [json.loads(path.read_text()) for path in sorted(results.glob(f"*-{options.minutes:g}min-seed*.json"))]
    print(curve_table(done))
    if options.figure:
        draw_curve(options.figure, done)
    print("\n" + "; ".join(sorted({r["machine"] for r in done})))


if __name__ == "__main__":
    main()
