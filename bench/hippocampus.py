"""Hippocampus: 160 and 10 training cases, 20 minutes of training each, 2D / 2.5D / 3D, bundled weights / from scratch.

Scored on the data set's fixed list of test cases, which no decision and no training sees. Finished runs are kept in
``bench/results/hippocampus.csv``; those of ``resnet18``, without an encoder in their name, are of earlier versions.

    python bench/hippocampus.py --seeds 0
"""

from __future__ import annotations

from pathlib import Path

from encoders import arm_edits
from rows import Row, figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, lists_of, run_all

from seg_transfer.catalogue.encoders import DEFAULT_ENCODER

MINUTES = 20
SIZES = ("160", "10")
CONFIGURATIONS = ("3d", "2.5d", "2d")
START = {"bundled": "bundled", "none": "scratch"}
"""Weights -> their name in tables."""
DECODERS = ("", "+wide", "+half")
"""Channels of the decoder: the plan's, and those of ``bench/encoders.py``."""


def runs(data: Path, minutes: float) -> list[BenchRun]:
    """Every run of the study, the most important first."""
    dataset = data / "hippocampus"
    splits = lists_of(dataset.name)
    return [
        BenchRun(
            name=f"{size}-{configuration}-{START[weights]}{decoder}-{minutes:g}min-{DEFAULT_ENCODER}",
            dataset=dataset,
            train=splits["few_shot"][size],
            test=splits["test"],
            options={"config": configuration, "weights": weights, "time_budget": minutes * 60},
            edits=arm_edits(DEFAULT_ENCODER, dataset.name, decoder.removeprefix("+")),
        )
        for configuration in CONFIGURATIONS
        for size in SIZES
        for weights in START
        for decoder in DECODERS
    ]


def table(results: list[Row]) -> str:
    """The results as a Markdown table, best first within a number of training cases."""
    lines = [
        "| encoder | cases | configuration | start | strategy | seed | steps | anterior | posterior | mean Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (-int(r["train_cases"]), -sum(figures_of(r["dice"]).values()))):
        dice = list(figures_of(r["dice"]).values())
        texts = [
            r["encoder"],
            r["train_cases"],
            r["configuration"],
            START[r["weights"]],
            r["strategy"],
            r["seed"],
            r["steps"],
        ]
        figures = [f"{figure:.3f}" for figure in (*dice, sum(dice) / len(dice))]
        lines.append(f"| {' | '.join([*texts, *figures])} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="training time of a run")
    options = parser.parse_args()
    results = RESULTS / "hippocampus.csv"
    run_all(runs(options.data, options.minutes), results, options)
    done = read_rows(results)
    print(table([row for row in done if f"-{options.minutes:g}min" in row["name"]]))
    print("\n" + "; ".join(sorted({r["machine"] for r in done})))


if __name__ == "__main__":
    main()
