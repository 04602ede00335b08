"""What can be told about transfer without training it to the end, for each draw of ``bench/regret.py``.

For the training cases of a draw, at most 20 of them, and the default plan with ResNet-18: what `segtl plan` gathers;
LogME, H-score and CC-FV of every stage, pretrained and random (BatchNorm recalibrated for both); gain of the probe over
random weights; relative norm and agreement of gradients after 50 steps of the decoder alone; distance of BatchNorm's
statistics; and a race of scratch, frozen, lower-only and gradual, 50 steps each on most of the draw's cases and scored
on the others. Each with the seconds that it took. Draws of which a cell of the regret is there are measured.

    python bench/signals.py
    python bench/signals.py --table     how well each signal predicts what the cells of the regret gave

One JSON file per draw in ``bench/results/signals``; nothing here reads a case outside the draw.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from batchnorm_distance import BUNDLED_SIDE, measure_statistics
from cells import arguments, commit, in_processes, machine
from feature_scores import measure_scores
from gradients import measure_gradients
from regret import DRAWS, RESULTS, SIGNALS, TRIALS, Trial, plan_draw
from signals_table import signals_table

import seg_transfer
from seg_transfer.evidence.cases import choose_cases
from seg_transfer.evidence.probe import run_probe
from seg_transfer.evidence.race import settle
from seg_transfer.evidence.transfer_evidence import gather
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.state import RunOptions
from seg_transfer.util.environment import cores
from seg_transfer.util.files import write_text

CASES = 20
RACE_SHARE, RACE_STEPS = 0.5, 400
"""Four candidates share half of 400 steps."""


def measure(trial: Trial, size: int, seed: int, data: Path, work: Path) -> dict[str, Any]:
    """Measure every signal of a draw that is not there yet."""
    name = f"{trial.dataset}-{size}-draw{seed}"
    path = SIGNALS / f"{name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {"draw": name, "seconds": {}}
    folder = work / name
    ways = _ways(trial, size, seed, data, folder)
    for signal, way in ways.items():
        if signal in found:
            continue
        start = time.perf_counter()
        found[signal] = way()
        found["seconds"][signal] = round(time.perf_counter() - start, 1)
        found |= {"machine": machine(), "commit": commit()}
        write_text(path, json.dumps(found, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _ways(trial: Trial, size: int, seed: int, data: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    def prepared() -> tuple[Plan, Store, list[str]]:
        """The plan, with BatchNorm recalibrated whatever the rule says; made once."""
        if not (folder / "plan.json").is_file():
            plan_draw(trial, size, seed, data, folder, strategy="gradual")
            seg_transfer.preprocess(work=folder, workers=0)
        plan = Plan.load(folder / "plan.json")
        strategy = plan.recipe.strategy.model_copy(update={"batchnorm": "recalibrated"})
        plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"strategy": strategy})})
        torch.set_num_threads(cores())
        return plan, Store.open(next((folder / "preprocessed").iterdir()), plan.data), choose_cases(plan, CASES, seed)

    def scores(source: str) -> Any:
        plan, store, cases = prepared()
        model = plan.model.model_copy(update={"weights": Weights(source=source)})
        plan = plan.model_copy(update={"model": model})
        return asdict(measure_scores(plan, store, cases, seed=seed, device="cpu"))

    def probe() -> Any:
        plan, store, cases = prepared()
        found = run_probe(plan, store, cases, others={}, context=False, seed=seed, device="cpu")
        return found.model_dump(mode="json")

    def gradients() -> Any:
        plan, store, cases = prepared()
        return asdict(measure_gradients(plan, store, cases, seed=seed, device="cpu"))

    def statistics() -> Any:
        plan, store, cases = prepared()
        return asdict(measure_statistics(plan, store, cases, side=BUNDLED_SIDE, seed=seed))

    def race() -> Any:
        plan, store, _ = prepared()
        asked = plan_draw(trial, size, seed, data, folder / "race", strategy="race", race_share=RACE_SHARE).recipe.race
        update = {"race": asked, "steps_per_epoch": RACE_STEPS // 2, "epochs": 2}
        plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update=update)})
        settle(plan, store, folder / "race", fold="full", options=RunOptions(device="cpu", threads=cores()))
        held: dict[str, Any] = json.loads((folder / "race" / "race.json").read_text())
        return held

    def evidence() -> Any:
        plan, store, cases = prepared()
        return gather(plan, store, cases, measured_on="", seed=seed, device="cpu").model_dump(mode="json")

    return {
        "evidence": evidence,
        "pretrained": lambda: scores("bundled"),
        "random": lambda: scores("none"),
        "gradients": gradients,
        "statistics": statistics,
        "race": race,
        "probe": probe,
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(seeds=list(range(DRAWS)))
    options = parser.parse_args()
    if options.table:
        print(signals_table(SIGNALS, RESULTS))
        return
    todo = [
        (trial, size, seed, options.data, options.work / "signals")
        for trial in TRIALS
        for size in trial.sizes
        for seed in options.seeds
        if options.only in f"{trial.dataset}-{size}-" and any(RESULTS.glob(f"{trial.dataset}-{size}-*-draw{seed}.json"))
    ]
    for found in in_processes(measure, todo, options.parallel):
        print(found["draw"], found["seconds"], flush=True)


if __name__ == "__main__":
    main()
