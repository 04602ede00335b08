"""Fitted classifiers in place of the U-Net: seconds to fit, and Dice, on 20 hippocampus cases.

Scored on 40 cases of the data set's longest list that are in none of the shorter ones; its test cases are not touched.
Bundled weights, defaults but for configuration and head. Finished runs are kept in ``bench/results/head.csv``;
names without an encoder are of ResNet-18, the default of earlier versions.

    python bench/head.py
    python bench/head.py --only 2d --seeds 0 1 2
"""

from __future__ import annotations

import statistics
from pathlib import Path

from rows import figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, held_out, lists_of, run_all

from seg_transfer.catalogue.encoders import DEFAULT_ENCODER

CONFIGURATIONS = ("2d", "3d")
HEADS = ("softmax", "svm", "bayes")


def runs(data: Path) -> list[BenchRun]:
    dataset = data / "hippocampus"
    lists = lists_of(dataset.name)["few_shot"]
    return [
        BenchRun(
            name=f"{configuration}-{head}-{DEFAULT_ENCODER}",
            dataset=dataset,
            train=lists["20"],
            test=held_out(lists),
            options={"config": configuration, "encoder": DEFAULT_ENCODER, "weights": "bundled", "head": head},
        )
        for configuration in CONFIGURATIONS
        for head in HEADS
    ]


def table(results: Path) -> str:
    lines = [
        "| encoder | configuration | head | seed | seconds to fit | anterior | posterior | mean Dice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(read_rows(results), key=lambda row: (row["name"], int(row["seed"]))):
        dice = figures_of(r["dice"])
        figures = [dice["Anterior"], dice["Posterior"], statistics.mean(dice.values())]
        configuration, head, *_ = r["name"].split("-")
        lines.append(
            f"| {r['encoder']} | {configuration} | {head} | {r['seed']} | {float(r['training_seconds']):.0f} | "
            + " | ".join(f"{figure:.3f}" for figure in figures)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    results = RESULTS / "head.csv"
    run_all(runs(options.data), results, options)
    print(table(results))


if __name__ == "__main__":
    main()
