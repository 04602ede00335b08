"""Fitted classifiers in place of the U-Net: seconds to fit, and Dice, on 20 hippocampus cases.

Scored on 40 cases of the data set's longest list that are in none of the shorter ones; its test cases are not touched.
Bundled weights, defaults but for configuration and head. Finished cells are kept in ``bench/results/head``.

    python bench/head.py
    python bench/head.py --only 2d --seeds 0 1 2
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from cells import HERE, Cell, arguments, held_out, lists_of, run_cells

CONFIGURATIONS = ("2d", "3d")
HEADS = ("softmax", "svm", "bayes")


def cells(data: Path) -> list[Cell]:
    dataset = data / "hippocampus"
    lists = lists_of(dataset.name)["few_shot"]
    return [
        Cell(
            name=f"{configuration}-{head}",
            dataset=dataset,
            train=lists["20"],
            test=held_out(lists),
            options={"config": configuration, "encoder": "resnet18", "weights": "bundled", "head": head},
        )
        for configuration in CONFIGURATIONS
        for head in HEADS
    ]


def table(results: Path) -> str:
    lines = [
        "| configuration | head | seed | seconds to fit | anterior | posterior | mean Dice |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("*.json")):
        r = json.loads(path.read_text())
        figures = [r["dice"]["Anterior"], r["dice"]["Posterior"], statistics.mean(r["dice"].values())]
        configuration, head = r["cell"].split("-")
        lines.append(
            f"| {configuration} | {head} | {r['seed']} | {r['training_seconds']:.0f} | "
            + " | ".join(f"{figure:.3f}" for figure in figures)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    results = HERE / "results" / "head"
    run_cells(cells(options.data), results, options)
    print(table(results))


if __name__ == "__main__":
    main()
