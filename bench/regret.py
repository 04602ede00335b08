"""Does the choice of a transfer strategy matter, and does segtl choose well? Regret over finished runs.

A run is a data set with so many training cases, a strategy and a draw. A draw is a training subset (of all cases but
the data set's ``test`` list, by patient where a patient has several), an initialisation and an order; draw K of a data
set is the same for every strategy. Steps are fixed per data set.

    python bench/regret.py                          do what is not done yet, where there is something to gain first
    python bench/regret.py --only hippocampus-5-    do these runs
    python bench/regret.py --choices                ask the planner anew what it chooses for each draw
    python bench/regret.py --table --figure F.png   print the regret of each choice, on development cases; run nothing

``bench/results/regret/ENCODER`` has a row per run in ``runs.csv``, in ``cases.csv`` the Dice of at most 40 cases
outside the draw, and in ``test_cases.csv`` that of the ``test`` cases, which is only read with ``--release``:
thresholds of the planner are set on the others. ``choices.csv`` has the planner's choices and the commit that they were
made with. Results of ``resnet18`` are of the versions named in their rows.

The strategies: ``scratch``; ``frozen`` and ``finetune`` (all stages pretrained); ``gradual`` (the same, unfrozen one
after the other); ``lower-only`` (the two finest stages pretrained and frozen, those above from random weights, learning
at full rate, BatchNorm too); ``frozen-random`` (random weights that never learn: what freezing alone is worth).
Network, patch, batch and everything else are those of the default plan with the bundled weights.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regret_figure import draw_gains
from regret_table import CASES, CHOICES, RUNS, TEST_CASES, last_choices, patient_of, regret_table
from rows import Row, append_rows, find_row, pairs_text
from runner import RESULTS, BenchRun, arguments, commit, in_processes, lists_of, score_cases, train_run

import seg_transfer
from seg_transfer.catalogue.encoders import DEFAULT_ENCODER
from seg_transfer.evaluation.scores import Scores
from seg_transfer.planning.plan import Plan
from seg_transfer.util.environment import machine_text

DRAWS = 3
EPOCH = 100
KEY = ("dataset", "size", "strategy", "draw")
RUN_COLUMNS = (*KEY, "train", "plan_hash", "normalization", "batchnorm", "configuration", "patch", "stages")
RUN_COLUMNS += ("batch_size", "steps", "training_seconds", "wall_seconds", "machine", "commit", "finished")
CASE_COLUMNS = (*KEY, "case", "dice")
CHOICE_COLUMNS = ("dataset", "size", "draw", "strategy", "commit")
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
class Sizes:
    """A data set: how many training cases, and how many epochs."""

    dataset: str
    sizes: tuple[int, ...]
    epochs: int


DATASETS = (
    Sizes("abdomen_mr", (5, 10), 5),
    Sizes("retina", (8,), 5),
    Sizes("sarcoma", (12,), 5),
    Sizes("cells", (5, 20, 150), 6),
    Sizes("hippocampus", (5, 20, 160), 6),
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


def cases_of(one: Sizes, size: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Cases of a draw to train on, those left over, and the data set's test cases."""
    lists = lists_of(one.dataset)
    pool = max(lists["few_shot"].values(), key=len)
    train = draw(pool, size, seed)
    return train, sorted(set(pool) - set(train)), lists["test"]


def plan_draw(one: Sizes, size: int, seed: int, encoder: str, data: Path, folder: Path, **options: Any) -> Plan:
    """The default plan of a draw, with the bundled weights and whatever else is asked for."""
    train, _, _ = cases_of(one, size, seed)
    return seg_transfer.plan(
        data / one.dataset,
        work=folder,
        cases=train,
        epochs=one.epochs,
        encoder=encoder,
        weights="bundled",
        seed=seed,
        **options,
    )


def run(one: Sizes, size: int, strategy: str, seed: int, encoder: str, data: Path, work: Path) -> Row:
    """Do a run unless its row is there; returns the row."""
    name = f"{one.dataset}-{size}-{strategy}-draw{seed}"
    key = {"dataset": one.dataset, "size": size, "strategy": strategy, "draw": seed}
    results = results_of(encoder)
    known = find_row(results / RUNS, **key)
    if known is not None:
        return known
    dataset = data / one.dataset
    train, held_out, test = cases_of(one, size, seed)
    development = sorted(random.Random(seed).sample(held_out, min(MOST_SCORED, len(held_out))))
    options = {"encoder": encoder, "epochs": one.epochs, "weights": "bundled", "strategy": STRATEGIES[strategy]}
    edits = {"recipe.steps_per_epoch": EPOCH, **EDITS.get(strategy, {})}
    folder = work / name
    started = time.perf_counter()
    planned = BenchRun(
        name=name,
        dataset=dataset,
        train=train,
        test=[],
        options=options,
        edits=edits,
        from_scratch=strategy == "scratch",
    )
    plan, trained = train_run(planned, folder, seed)
    for file, cases in ((CASES, development), (TEST_CASES, test)):
        scores = score_cases(dataset, cases, folder) if cases else None
        rows = [] if scores is None else [{**key, "case": case, "dice": dice} for case, dice in _dice(scores).items()]
        append_rows(results / file, CASE_COLUMNS, rows)
    result = {
        **key,
        "train": " ".join(train),
        "plan_hash": plan.hash,
        "normalization": "+".join(sorted({channel.normalization.kind for channel in plan.data.channels})),
        "batchnorm": plan.recipe.strategy.batchnorm,
        "configuration": plan.model.configuration,
        "patch": "x".join(map(str, plan.model.patch)),
        "stages": plan.model.stages,
        "batch_size": plan.recipe.batch_size,
        "steps": trained["steps"],
        "training_seconds": round(trained["seconds"], 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "machine": machine_text(),
        "commit": commit(),
        "finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    append_rows(results / RUNS, RUN_COLUMNS, [result])
    shutil.rmtree(folder)
    return {name: str(value) for name, value in result.items()}


def results_of(encoder: str) -> Path:
    """The folder of an encoder's results."""
    return RESULTS / "regret" / encoder


def ask_planner(encoder: str, data: Path, work: Path, only: str) -> None:
    """Append what the planner chooses for each draw now; the table uses the latest choice."""
    for one in DATASETS:
        for size, seed in itertools.product(one.sizes, range(DRAWS)):
            if only in f"{one.dataset}-{size}-draw{seed}":
                folder = work / "planner"
                strategy = strategy_name(plan_draw(one, size, seed, encoder, data, folder))
                shutil.rmtree(folder)
                row = {"dataset": one.dataset, "size": size, "draw": seed, "strategy": strategy, "commit": commit()}
                append_rows(results_of(encoder) / CHOICES, CHOICE_COLUMNS, [row])
                print(pairs_text(row), flush=True)


def strategy_name(plan: Plan) -> str:
    """The study's name of a plan's strategy."""
    return {"partial": "lower-only"}.get(plan.recipe.strategy.name, plan.recipe.strategy.name)


def _dice(scores: Scores) -> dict[str, str]:
    """Case -> Dice of each label; a label that neither map holds is left out."""
    return {
        case: pairs_text(
            {label: round(dice, 5) for label, score in labels.items() if (dice := score.metrics["dice"]) == dice}
        )
        for case, labels in scores.cases.items()
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--release", action="store_true", help="with --table: on the test cases")
    parser.add_argument("--figure", type=Path, help="with --table: a .png file to draw gains over scratch into")
    parser.add_argument("--choices", action="store_true", help="ask the planner what it chooses for each draw")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="with bundled weights")
    parser.set_defaults(seeds=list(range(DRAWS)))
    options = parser.parse_args()
    results, work = results_of(options.encoder), options.work / "regret" / options.encoder
    if options.choices:
        ask_planner(options.encoder, options.data, work, options.only)
        return
    if options.table:
        choices = {"segtl's": last_choices(results)}
        print(regret_table(results, list(STRATEGIES), choices, release=options.release))
        if options.figure:
            draw_gains(options.figure, results, list(STRATEGIES), release=options.release)
        return
    todo = [
        (one, size, strategy, seed, options.encoder, options.data, work)
        for one in DATASETS
        for size in one.sizes
        for seed in options.seeds
        for strategy in STRATEGIES
        if options.only in f"{one.dataset}-{size}-{strategy}-draw{seed}"
    ]
    for row in in_processes(run, todo, options.parallel):
        print(
            row["dataset"], row["size"], row["strategy"], "draw", row["draw"], row["training_seconds"], "s", flush=True
        )


if __name__ == "__main__":
    main()
