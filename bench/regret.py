"""Does the choice of a transfer strategy matter, and does segtl choose well? Regret over cells that were really run.

A cell is a data set with so many training cases, a strategy and a draw. A draw is a training subset of its own (from
all cases but the data set's ``test`` list, by patient where a patient has several), an initialisation and an order;
draw K of a data set is the same for every strategy. Steps are fixed per data set, whatever the machine does.

    python bench/regret.py                          runs what is not done yet, hippocampus and few cases first
    python bench/regret.py --only hippocampus-5-    runs these
    python bench/regret.py --table --figure F.png   the regret of each choice, on development cases; runs nothing

Each cell is one JSON file in ``bench/results/regret``: Dice of cases outside the draw, at most 40. Those of the
``test`` cases are in a file of their own below ``test/``, which nothing here reads unless ``--release`` asks for it:
thresholds of the planner are set on the others.

The strategies: ``scratch``; ``frozen`` and ``finetune`` (all stages pretrained); ``gradual`` (the same, unfrozen one
after the other); ``lower-only`` (the two finest stages pretrained and frozen, those above from random weights, learning
at full rate, BatchNorm too); ``frozen-random`` (random weights that never learn: what freezing alone is worth).
Network, patch, batch and everything else are those of the default plan with the bundled weights.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import HERE, Cell, arguments, commit, in_processes, lists_of, machine, score_cases, train_cell
from regret_figure import draw_gains
from regret_table import patient_of, regret_table

import seg_transfer
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.util.files import write_text

RESULTS = HERE / "results" / "regret"
DRAWS = 3
EPOCH = 100
MOST_SCORED = 40
STRATEGIES = {
    "scratch": "finetune",
    "frozen": "frozen",
    "frozen-random": "frozen",
    "lower-only": "partial",
    "gradual": "gradual",
    "finetune": "finetune",
}
"""As the plan calls them; those of random weights are planned with the bundled ones, which bound the network, and have
them taken away."""
EDITS: dict[str, dict[str, Any]] = {
    "frozen-random": {
        "model.weights": {"source": "none"},
        "recipe.strategy.pretrained_stages": 0,
        "recipe.strategy.batchnorm": "recalibrated",
    },
}


@dataclass(frozen=True)
class Trial:
    """A data set: how many training cases, and how many steps."""

    dataset: str
    sizes: tuple[int, ...]
    epochs: int


TRIALS = (
    Trial("hippocampus", (5, 20, 160), 6),
    Trial("cells", (5, 20, 150), 6),
    Trial("abdomen_mr", (5, 10), 5),
    Trial("retina", (8,), 5),
    Trial("sarcoma", (12,), 5),
)


def draw(cases: list[str], size: int, seed: int) -> list[str]:
    """``size`` cases, whole patients at a time, in the order of their names."""
    patients: dict[str, list[str]] = {}
    for case in sorted(cases):
        patients.setdefault(patient_of(case), []).append(case)
    order = sorted(patients)
    random.Random(seed).shuffle(order)
    drawn: list[str] = []
    for name in order:
        if len(drawn) < size:
            drawn += patients[name]
    return sorted(drawn)


def cases_of(trial: Trial, size: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Cases of a draw to train on, those left over, and the data set's test cases."""
    lists = lists_of(trial.dataset)
    pool = max(lists["few_shot"].values(), key=len)
    train = draw(pool, size, seed)
    return train, sorted(set(pool) - set(train)), lists["test"]


def plan_draw(trial: Trial, size: int, seed: int, data: Path, folder: Path, **options: Any) -> Plan:
    """The default plan of a draw, with the bundled weights and whatever else is asked for."""
    train, _, _ = cases_of(trial, size, seed)
    return seg_transfer.plan(
        data / trial.dataset,
        work=folder,
        cases=train,
        epochs=trial.epochs,
        encoder="resnet18",
        weights="bundled",
        seed=seed,
        **options,
    )


def run(trial: Trial, size: int, strategy: str, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """Run a cell unless its result is there; returns it."""
    name = f"{trial.dataset}-{size}-{strategy}-draw{seed}"
    path = RESULTS / f"{name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    dataset = data / trial.dataset
    train, held_out, test = cases_of(trial, size, seed)
    development = sorted(random.Random(seed).sample(held_out, min(MOST_SCORED, len(held_out))))
    options = {"encoder": "resnet18", "epochs": trial.epochs, "weights": "bundled", "strategy": STRATEGIES[strategy]}
    edits = {"recipe.steps_per_epoch": EPOCH, **EDITS.get(strategy, {})}
    folder = work / name
    started = time.perf_counter()
    scratch = strategy == "scratch"
    cell = Cell(name=name, dataset=dataset, train=train, test=[], options=options, edits=edits, from_scratch=scratch)
    plan, trained = train_cell(cell, folder, seed)
    result = {
        "dataset": trial.dataset,
        "size": size,
        "strategy": strategy,
        "draw": seed,
        "train": train,
        "plan": plan.hash,
        "normalization": sorted({channel.normalization.kind for channel in plan.data.channels}),
        "batchnorm": plan.recipe.strategy.batchnorm,
        "configuration": plan.model.configuration,
        "patch": plan.model.patch,
        "stages": plan.model.stages,
        "batch_size": plan.recipe.batch_size,
        "steps": trained["steps"],
        "training_seconds": round(trained["seconds"], 1),
        "dice": _dice(score_cases(dataset, development, folder)) if development else {},
        "machine": machine(),
        "commit": commit(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    write_text(RESULTS / "test" / path.name, json.dumps(_dice(score_cases(dataset, test, folder)), indent=1) + "\n")
    result["wall_seconds"] = round(time.perf_counter() - started, 1)
    write_text(path, json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder)
    return result


def planned(data: Path, work: Path) -> dict[str, dict[int, str]]:
    """What the planner chooses for each draw that was run: trial -> draw -> strategy; kept by the hash of its rules."""
    package = HERE.parent / "seg_transfer"
    rules = [file for room in ("planning", "evidence", "api") for file in sorted((package / room).rglob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in rules)).hexdigest()[:12]
    path = RESULTS / "planner" / f"{digest}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for trial in TRIALS:
        for size in trial.sizes:
            for seed in range(DRAWS):
                name = f"{trial.dataset}-{size}"
                if str(seed) in found.get(name, {}) or not list(RESULTS.glob(f"{name}-*-draw{seed}.json")):
                    continue
                folder = work / "planner"
                plan = plan_draw(trial, size, seed, data, folder)
                shutil.rmtree(folder)
                found.setdefault(name, {})[str(seed)] = strategy_name(plan)
                write_text(path, json.dumps(found, indent=1) + "\n")
    return {name: {int(seed): strategy for seed, strategy in draws.items()} for name, draws in found.items()}


def strategy_name(plan: Plan) -> str:
    """The cell that a plan would be."""
    return {"partial": "lower-only"}.get(plan.recipe.strategy.name, plan.recipe.strategy.name)


def _dice(scores: Scores) -> dict[str, dict[str, float]]:
    """Case -> label -> Dice; a label that neither map holds is left out."""
    return {
        case: {label: round(dice, 5) for label, score in labels.items() if (dice := score.metrics["dice"]) == dice}
        for case, labels in scores.cases.items()
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--release", action="store_true", help="with --table: on the test cases")
    parser.add_argument("--figure", type=Path, help="with --table: a .png file to draw gains over scratch into")
    parser.set_defaults(seeds=list(range(DRAWS)))
    options = parser.parse_args()
    if options.table:
        choices = {"segtl's": planned(options.data, options.work / "regret")}
        print(regret_table(RESULTS, list(STRATEGIES), choices, release=options.release))
        if options.figure:
            draw_gains(options.figure, RESULTS, list(STRATEGIES), release=options.release)
        return
    todo = [
        (trial, size, strategy, seed, options.data, options.work / "regret")
        for trial in TRIALS
        for size in trial.sizes
        for seed in options.seeds
        for strategy in STRATEGIES
        if options.only in f"{trial.dataset}-{size}-{strategy}-draw{seed}"
    ]
    for result in in_processes(run, todo, options.parallel):
        values = [value for labels in result["dice"].values() for value in labels.values()]
        mean = f"{sum(values) / len(values):.4f}" if values else "–"
        print(mean, result["dataset"], result["size"], result["strategy"], "draw", result["draw"], flush=True)


if __name__ == "__main__":
    main()
