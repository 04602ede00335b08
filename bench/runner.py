"""One benchmark run: plan, preprocess, train on every case given, then predict and score cases never trained on.

Everything goes through the public functions. A finished run is one row of its study's CSV file in ``bench/results``
and is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

from rows import Row, append_rows, find_row, pairs_text

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import scratch_control
from seg_transfer.util.environment import machine_text
from seg_transfer.util.files import write_text
from seg_transfer.util.parallel import end_with_parent

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
COLUMNS = ("name", "seed", "train_cases", "test_cases", "options", "configuration", "encoder", "weights", "strategy")
COLUMNS += ("patch", "stages", "batch_size", "plan_hash", "steps", "training_seconds", "dice", "wall_seconds")
COLUMNS += ("machine", "commit", "finished")
"""Of a study's CSV file; ``dice`` has the mean of each label."""
ENDINGS = (".nii.gz", ".png")
DATA, DATA_HELP = HERE / "data", "folder of data sets in nnU-Net's raw layout, named as the lists in bench/lists"


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """What is run: training cases, cases to score, options of ``seg_transfer.plan``, and edits of its plan.

    Attributes:
        name: Unique within a study; with the seed it identifies the run.
        dataset: Folder of the data set.
        train: Cases to train on.
        test: Cases to score.
        options: Options of ``seg_transfer.plan``.
        edits: Path of a field of the plan -> its new value, or a function of the old one.
        from_scratch: Train the plan's from-scratch control.
    """

    name: str
    dataset: Path
    train: list[str]
    test: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    edits: dict[str, Any] = field(default_factory=dict)
    from_scratch: bool = False


def link_cases(dataset: Path, cases: list[str], folder: Path) -> tuple[Path, Path]:
    """Folders of links to the images and labels of some cases."""
    wanted = set(cases)
    made = []
    for source, strip in (("imagesTr", True), ("labelsTr", False)):
        target = folder / source.replace("Tr", "")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in sorted((dataset / source).iterdir()):
            stem = path.name
            for ending in ENDINGS:
                stem = stem.removesuffix(ending)
            if (stem.rsplit("_", 1)[0] if strip else stem) in wanted:
                (target / path.name).symlink_to(path.resolve())
        made.append(target)
    return made[0], made[1]


def lists_of(dataset: str) -> dict[str, Any]:
    """Cases of a data set: ``test``, never trained on, and ``few_shot``, nested training lists by their size."""
    found: dict[str, Any] = json.loads((HERE / "lists" / f"{dataset}.json").read_text())
    return found


def held_out(lists: dict[str, list[str]]) -> list[str]:
    """Up to 40 development cases: of a data set's longest list of training cases, in none of the shorter ones."""
    *shorter, longest = sorted(lists.values(), key=len)
    return [case for case in longest if case not in shorter[-1]][:40]


def listed_and_others(dice: Mapping[str, float], dataset: str) -> tuple[float, float]:
    """Mean over the cases of a data set's ``test`` list, and over the others.

    Args:
        dice: Case -> its mean Dice.
        dataset: Name of the data set.
    """
    listed = set(lists_of(dataset)["test"])
    inside, others = ([value for case, value in dice.items() if (case in listed) == wanted] for wanted in (True, False))
    return statistics.fmean(inside), statistics.fmean(others)


def edit_plan(path: Path, edits: dict[str, Any]) -> None:
    """Change a plan by hand: path of a field, such as ``recipe.strategy.batchnorm``, to its new value or a function."""
    content = json.loads(path.read_text())
    for name, value in edits.items():
        *parents, field_name = name.split(".")
        part = content
        for parent in parents:
            part = part[parent]
        part[field_name] = value(part[field_name]) if callable(value) else value
    write_text(path, json.dumps(content, indent=2))


def commit() -> str:
    """The code that is measured."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip()


def run_one(run: BenchRun, results: Path, work: Path, seed: int, columns: Sequence[str] = COLUMNS) -> Row:
    """Do a run unless its row is there; returns the row."""
    known = find_row(results, name=run.name, seed=seed)
    if known is not None:
        return known
    folder = work / f"{run.name}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    plan, trained = train_run(run, folder, seed)
    scores = score_cases(run.dataset, run.test, folder)
    row = add_result(results, columns, run, seed, about_run(run, plan, trained), scores, started)
    shutil.rmtree(folder)
    return row


def about_run(run: BenchRun, plan: Plan, trained: Mapping[str, Any]) -> dict[str, object]:
    """Columns about the plan and the training, of what :func:`train_run` returns."""
    return {
        "options": pairs_text(run.options),
        "configuration": plan.model.configuration,
        "encoder": plan.model.encoder,
        "weights": plan.model.weights.source,
        "strategy": plan.recipe.strategy.name,
        "patch": "x".join(map(str, plan.model.patch)),
        "stages": plan.model.stages,
        "batch_size": plan.recipe.batch_size,
        "plan_hash": plan.hash,
        "steps": trained["steps"],
        "training_seconds": round(trained["seconds"], 1),
    }


def add_result(
    path: Path,
    columns: Sequence[str],
    run: BenchRun,
    seed: int,
    about: Mapping[str, object],
    scores: Scores,
    started: float,
) -> Row:
    """Add the row of a finished run and return it.

    Args:
        path: The study's CSV file.
        columns: Of this file.
        run: What was run.
        seed: Its random seed.
        about: Columns about the plan and the training.
        scores: Of the run's test cases.
        started: ``time.perf_counter()`` at its start.
    """
    result = {
        "name": run.name,
        "seed": seed,
        "train_cases": len(run.train),
        "test_cases": len(run.test),
        **about,
        "dice": pairs_text({label: round(dice, 4) for label, dice in scores.label_dice.items()}),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "machine": machine_text(),
        "commit": commit(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    append_rows(path, columns, [result])
    return {name: str(value) for name, value in result.items()}


def train_run(run: BenchRun, folder: Path, seed: int) -> tuple[Plan, dict[str, Any]]:
    """Plan and train on every case; the plan as it was trained, and the manifest's result."""
    plan = seg_transfer.plan(run.dataset, work=folder, cases=run.train, seed=seed, **run.options)
    if run.edits:
        edit_plan(folder / "plan.json", run.edits)
        plan = Plan.load(folder / "plan.json")
    if run.from_scratch:
        plan = scratch_control(plan)
        plan.save(folder / "plan.json")
    trained = seg_transfer.train("full", work=folder)[0]
    return plan, json.loads((trained.folder / "manifest.json").read_text())["result"]


def score_cases(dataset: Path, cases: list[str], folder: Path) -> Scores:
    """Predict and score cases with the models of a work folder."""
    images, labels = link_cases(dataset, cases, folder / "test")
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    seg_transfer.predict(images, folder / "predictions", work=folder)
    return seg_transfer.evaluate(folder / "predictions", labels, work=folder)


def run_all(runs: list[BenchRun], results: Path, options: argparse.Namespace) -> None:
    """Do the runs that the options of :func:`arguments` choose, ``--parallel`` of them at a time."""
    if options.table:
        return
    todo = [
        (run, results, options.work / results.stem, seed)
        for seed in options.seeds
        for run in runs
        if options.only in run.name
    ]
    for row in in_processes(run_one, todo, options.parallel):
        print(row["dice"], row["name"], "seed", row["seed"], flush=True)


def in_processes(function: Callable[..., Row], todo: list[tuple[Any, ...]], parallel: int) -> Iterator[Row]:
    """Results in order; ``parallel`` processes at a time, each on its share of the cores."""
    context = multiprocessing.get_context("spawn")
    shares: Queue[set[int]] = context.Manager().Queue()
    for index in range(parallel):
        shares.put(set(sorted(os.sched_getaffinity(0))[index::parallel]))
    with ProcessPoolExecutor(parallel, context, initializer=_take_cores, initargs=(shares,)) as pool:
        for running in [pool.submit(function, *each) for each in todo]:
            yield running.result()


def _take_cores(shares: Queue[set[int]]) -> None:
    end_with_parent()
    os.sched_setaffinity(0, shares.get())


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every study has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="do only the runs whose name contains this")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, each on its share of the cores")
    parser.add_argument("--table", action="store_true", help="print the table of finished runs, run nothing")
    return parser
