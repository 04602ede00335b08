"""Five-fold cross-validation of hippocampus: what Dice is there after so many minutes of training per fold?

Scored as nnU-Net publishes its figures: every case by the fold that did not see it. Plans and options are segtl's own
but for the minutes. Finished folds are rows of ``bench/results/cross_validation.csv``, and their cases of
``cross_validation_cases.csv``; runs stay in the scratch folder.

    python bench/cross_validation.py --minutes 20 --folds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from rows import append_rows, figures_of, find_row, pairs_text, read_rows
from runner import DATA, DATA_HELP, HERE, RESULTS, commit, in_processes, listed_and_others

import seg_transfer
from seg_transfer.util.environment import machine_text
from seg_transfer.util.statistics import mean_interval

DATASET = "hippocampus"
RUNS, CASES = RESULTS / "cross_validation.csv", RESULTS / "cross_validation_cases.csv"
ABOUT = ("name", "fold", "train_cases", "validation_cases", "configuration", "encoder", "strategy", "patch")
COLUMNS = (*ABOUT, "plan_hash", "steps", "training_seconds", "dice", "machine", "commit")
CASE_COLUMNS = ("name", "fold", "case", "dice")


def do_fold(data: Path, work: Path, config: str, minutes: float, fold: int) -> dict[str, str]:
    """Train and validate a fold unless its row is there; the row."""
    name = f"{DATASET}-{config}-{minutes:g}min"
    if known := find_row(RUNS, name=name, fold=fold):
        return known
    folder = work / f"{name}-fold{fold}"
    plan = seg_transfer.plan(data / DATASET, work=folder, config=config, time_budget=minutes * 60)
    (trained,) = seg_transfer.train(str(fold), work=folder)
    assert trained.scores is not None, "the fold holds cases out"
    result = json.loads((trained.folder / "manifest.json").read_text())["result"]
    cases = [
        {"name": name, "fold": fold, "case": case, "dice": pairs_text({k: round(v, 4) for k, v in dice.items()})}
        for case, dice in (
            (case, {label: score.metrics["dice"] for label, score in labels.items()})
            for case, labels in trained.scores.cases.items()
        )
    ]
    row = {
        "name": name,
        "fold": fold,
        "train_cases": len(plan.recipe.splits[fold].train),
        "validation_cases": len(cases),
        "configuration": plan.model.configuration,
        "encoder": plan.model.encoder,
        "strategy": trained.strategy,
        "patch": "x".join(map(str, plan.model.patch)),
        "plan_hash": plan.hash,
        "steps": result["steps"],
        "training_seconds": round(result["seconds"], 1),
        "dice": pairs_text({label: round(dice, 4) for label, dice in trained.scores.label_dice.items()}),
        "machine": machine_text(),
        "commit": commit(),
    }
    append_rows(CASES, CASE_COLUMNS, cases)
    append_rows(RUNS, COLUMNS, [row])
    return {key: str(value) for key, value in row.items()}


def table() -> str:
    """The results as a Markdown table: the mean of each label over all cases, and an interval of the cases' means.

    The last columns have the cases of the ``test`` list of ``bench/hippocampus.py``, and the others.
    """
    runs, cases = read_rows(RUNS), read_rows(CASES)
    lines = ["| run | folds | cases | anterior | posterior | mean (95 % interval) | steps | `test` list | others |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["name"] for row in runs):
        of_case = {row["case"]: list(figures_of(row["dice"]).values()) for row in cases if row["name"] == name}
        dice = list(of_case.values())
        steps = [int(row["steps"]) for row in runs if row["name"] == name]
        anterior, posterior = (statistics.fmean(each) for each in zip(*dice, strict=True))
        means = [statistics.fmean(each) for each in dice]
        low, high = mean_interval(means)
        mean = f"{statistics.fmean(means):.4f} ({low:.4f} to {high:.4f})"
        inside, others = listed_and_others(dict(zip(of_case, means, strict=True)), DATASET)
        figures = f"{anterior:.4f} | {posterior:.4f} | {mean} | {min(steps)} to {max(steps)}"
        figures += f" | {inside:.4f} | {others:.4f}"
        lines.append(f"| {name} | {len(steps)} | {len(dice)} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help=DATA_HELP)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    parser.add_argument("--minutes", type=float, default=20, help="of training, a fold")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--configs", nargs="+", default=["3d"], help="3d, 2.5d or 2d")
    parser.add_argument("--parallel", type=int, default=1, help="folds at a time, each on its share of the cores")
    parser.add_argument("--table", action="store_true", help="print the table of finished folds, run nothing")
    options = parser.parse_args()
    work = options.work / "cross_validation"
    todo = [(options.data, work, config, options.minutes, fold) for config in options.configs for fold in options.folds]
    for row in in_processes(do_fold, [] if options.table else todo, options.parallel):
        print(row["dice"], row["name"], "fold", row["fold"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
