"""Hippocampus: 160 and 10 training cases, 20 minutes of training each, 2D / 2.5D / 3D, bundled weights / from scratch.

Scored on the data set's fixed list of test cases, which no decision and no training sees. Finished cells are kept in
``bench/results/hippocampus`` and not run again; ``--table`` prints what is done.

    python bench/hippocampus.py --seeds 0
"""

from __future__ import annotations

import json
from pathlib import Path

from cells import HERE, Cell, arguments, lists_of, run_cells

MINUTES = 20
SIZES = ("160", "10")
CONFIGURATIONS = ("3d", "2.5d", "2d")
WEIGHTS = ("bundled", "none")


def cells(data: Path, minutes: float) -> list[Cell]:
    """Every cell of the benchmark, those that matter most first."""
    dataset = data / "hippocampus"
    splits = lists_of(dataset.name)
    return [
        Cell(
            name=f"{size}-{configuration}-{'scratch' if weights == 'none' else weights}-{minutes:g}min",
            dataset=dataset,
            train=splits["few_shot"][size],
            test=splits["test"],
            options={"config": configuration, "encoder": "resnet18", "weights": weights, "time_budget": minutes * 60},
        )
        for configuration in CONFIGURATIONS
        for size in SIZES
        for weights in WEIGHTS
    ]


def table(results: list[dict]) -> str:
    """The results as a Markdown table, best first within a number of training cases."""
    lines = [
        "| training cases | configuration | start | strategy | seed | steps | anterior | posterior | mean Dice |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (-r["train_cases"], -sum(r["dice"].values()))):
        start = "scratch" if r["weights"] == "none" else r["weights"]
        dice = list(r["dice"].values())
        lines.append(
            f"| {r['train_cases']} | {r['configuration']} | {start} | {r['strategy']} | {r['seed']} | {r['steps']} | "
            f"{dice[0]:.3f} | {dice[1]:.3f} | {sum(dice) / len(dice):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="training time of a cell")
    options = parser.parse_args()
    results = HERE / "results" / "hippocampus"
    run_cells(cells(options.data, options.minutes), results, options)
    done = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    print(table([r for r in done if f"-{options.minutes:g}min" in r["cell"]]))
    print("\n" + "; ".join(sorted({r["machine"] for r in done})))


if __name__ == "__main__":
    main()
