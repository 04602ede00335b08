"""One benchmark cell: plan, preprocess, train on every case given, predict and score cases never trained on.

Everything goes through the public functions, as a user would; a finished cell is one JSON file and is not run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.variants import scratch_control
from seg_transfer.util.environment import cores
from seg_transfer.util.files import write_text
from seg_transfer.util.parallel import end_with_parent

HERE = Path(__file__).resolve().parent
ENDINGS = (".nii.gz", ".png")
DATA, DATA_HELP = HERE / "data", "folder of data sets in nnU-Net's raw layout, named as the lists in bench/lists"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is run: training and scored cases, options of ``seg_transfer.plan``, edits of its plan, or its control."""

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


def machine() -> str:
    """The machine in words, for the table's caption."""
    import torch  # not at the top: seg_transfer must come first to set how OpenMP's threads wait

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cores()} of {os.cpu_count()} cores, {model}, {gpu}"


def edit_plan(path: Path, edits: dict[str, Any]) -> None:
    """Change a plan by hand: path of a field, such as ``recipe.strategy.batchnorm``, to its new value."""
    content = json.loads(path.read_text())
    for name, value in edits.items():
        *parents, field_name = name.split(".")
        part = content
        for parent in parents:
            part = part[parent]
        part[field_name] = value
    write_text(path, json.dumps(content, indent=2))


def commit() -> str:
    """The code that is measured."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip()


def run_cell(cell: Cell, results: Path, work: Path, seed: int) -> dict[str, Any]:
    """Run a cell unless its result is there; returns the result."""
    path = results / f"{cell.name}-seed{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    folder = work / f"{cell.name}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    plan, trained = train_cell(cell, folder, seed)
    scores = score_cases(cell.dataset, cell.test, folder)
    about = {
        "options": {key: str(value) for key, value in cell.options.items()},
        "edits": cell.edits,
        "configuration": plan.model.configuration,
        "encoder": plan.model.encoder,
        "weights": plan.model.weights.source,
        "strategy": plan.recipe.strategy.name,
        "patch": plan.model.patch,
        "stages": plan.model.stages,
        "batch_size": plan.recipe.batch_size,
        "plan_hash": plan.hash,
        "steps": trained["steps"],
        "training_seconds": round(trained["seconds"], 1),
    }
    result = write_result(path, cell, seed, about, scores, started)
    shutil.rmtree(folder)
    return result


def write_result(
    path: Path, cell: Cell, seed: int, about: dict[str, Any], scores: Scores, started: float
) -> dict[str, Any]:
    """Write what became of a cell, ``about`` its training among it; returns that."""
    result = {
        "cell": cell.name,
        "seed": seed,
        "train_cases": len(cell.train),
        "test_cases": len(cell.test),
        **about,
        "dice": {label: round(dice, 4) for label, dice in scores.label_dice.items()},
        "wall_seconds": round(time.perf_counter() - started, 1),
        "machine": machine(),
        "commit": commit(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    write_text(path, json.dumps(result, indent=2) + "\n")
    return result


def train_cell(cell: Cell, folder: Path, seed: int) -> tuple[Plan, dict[str, Any]]:
    """Plan and train on every case; the plan as it was trained, and the manifest's result."""
    plan = seg_transfer.plan(cell.dataset, work=folder, cases=cell.train, seed=seed, **cell.options)
    if cell.edits:
        edit_plan(folder / "plan.json", cell.edits)
        plan = Plan.load(folder / "plan.json")
    if cell.from_scratch:
        plan = scratch_control(plan)
        plan.save(folder / "plan.json")
    run = seg_transfer.train("full", work=folder)[0]
    return plan, json.loads((run.folder / "manifest.json").read_text())["result"]


def score_cases(dataset: Path, cases: list[str], folder: Path) -> Scores:
    """Predict and score cases with the models of a work folder."""
    images, labels = link_cases(dataset, cases, folder / "test")
    shutil.rmtree(folder / "predictions", ignore_errors=True)
    seg_transfer.predict(images, folder / "predictions", work=folder)
    return seg_transfer.evaluate(folder / "predictions", labels, work=folder)


def run_cells(cells: list[Cell], results: Path, options: argparse.Namespace) -> None:
    """Run the cells that the options of :func:`arguments` choose, ``--parallel`` of them at a time."""
    if options.table:
        return
    todo = [
        (cell, results, options.work / results.name, seed)
        for seed in options.seeds
        for cell in cells
        if options.only in cell.name
    ]
    for result in in_processes(run_cell, todo, options.parallel):
        print(json.dumps(result["dice"]), result["cell"], "seed", result["seed"], flush=True)


def in_processes(
    function: Callable[..., dict[str, Any]], todo: list[tuple[Any, ...]], parallel: int
) -> Iterator[dict[str, Any]]:
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
    """The options every benchmark of cells has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="run only cells whose name contains this")
    parser.add_argument("--parallel", type=int, default=1, help="cells at a time, each on its share of the cores")
    parser.add_argument("--table", action="store_true", help="print the table of what is done; run nothing")
    return parser
