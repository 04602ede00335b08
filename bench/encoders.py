"""Which encoder, decoder and strategy give the best Dice in the same minutes of training, with few cases?

Trained on each data set's own list of few cases with default plans but for encoder, decoder and strategy; scored on
cases of its longest list that are not in the shorter ones. Test cases are not touched. The time is that of training, on
the cores of one run. Finished runs are kept in ``bench/results/encoders.csv``. A strategy with ``+wide``, ``+half`` or
``+thin`` has a decoder of these channels, whatever the plan says; one with ``+four`` uses the four lower stages alone,
with ``+late`` the encoder starts to learn at twice the planned share of the time, and a number is that of the sides of
its patches.

    python bench/encoders.py --seeds 0 1 2 --parallel 2
    python bench/encoders.py --only abdomen_mr --minutes 10
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from rows import figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, held_out, lists_of, run_all

from seg_transfer.catalogue.encoders import BUNDLED, entry
from seg_transfer.planning.rules.decoder import WIDTHS

SETTINGS: dict[str, tuple[str, int, str]] = {
    "abdomen_mr": ("abdomen_mr", 5, "auto"),
    "retina": ("retina", 8, "auto"),
    "sarcoma": ("sarcoma", 6, "auto"),
    "sarcoma_3d": ("sarcoma", 6, "3d"),
    "sarcoma_2d": ("sarcoma", 6, "2d"),
    "sarcoma_2.5d": ("sarcoma", 6, "2.5d"),
    "cells": ("cells", 5, "auto"),
    "hippocampus": ("hippocampus", 5, "auto"),
    "hippocampus_3d": ("hippocampus", 20, "3d"),
    "hippocampus_2.5d": ("hippocampus", 20, "2.5d"),
    "hippocampus_80_3d": ("hippocampus", 80, "3d"),
    "hippocampus_80_2.5d": ("hippocampus", 80, "2.5d"),
}
"""Name in tables -> data set, number of training cases, and configuration."""
ARMS = (
    ("resnet18", "gradual"),
    ("tf_efficientnet_lite0", "gradual"),
    ("tf_efficientnet_lite0", "frozen"),
    ("tf_efficientnet_lite0", "finetune"),
    ("tf_efficientnet_lite0", "scratch"),
    ("resnet18", "gradual+wide"),
    ("tf_efficientnet_lite0", "gradual+wide"),
    ("tf_efficientnet_lite0", "frozen+wide"),
    ("tf_efficientnet_lite0", "scratch+wide"),
    ("tf_efficientnet_lite0", "gradual+half"),
    ("tf_efficientnet_lite0", "frozen+half"),
    ("tf_efficientnet_lite0", "gradual+thin"),
    ("tf_efficientnet_lite0", "frozen+thin"),
    ("tf_efficientnet_lite0", "gradual+four"),
    ("tf_efficientnet_lite0", "gradual+late"),
    ("tf_efficientnet_lite0", "gradual+192"),
    ("tf_efficientnet_lite0", "gradual+256"),
)
DECODERS = {"wide": WIDTHS["cpu"], "half": WIDTHS["narrow"], "thin": {2: 16, 4: 32, 8: 48, 16: 64, 32: 64}}
"""Decoder of an arm -> stride of a stage -> channels of its block. The patch stays the default plan's."""
STAGES = {"hippocampus": 3}
"""Stages in use where a data set's images are too small for all of them."""


def start(strategy: str, weights: str) -> dict[str, str]:
    """Options of a strategy, which excludes weights if it is scratch."""
    return {"strategy": strategy} | ({} if strategy == "scratch" else {"weights": weights})


def lowest_four(per_stage: list[float]) -> list[float]:
    """What remains of a list with one entry per stage."""
    return per_stage[:4]


def twice(shares: list[float]) -> list[float]:
    """Twice as large shares."""
    return [2 * share for share in shares]


def with_sides(side: int, patch: list[int]) -> list[int]:
    """A patch of as many slices with other sides."""
    return [patch[0], side, side]


CHANGES: dict[str, dict[str, Any]] = {
    "four": {
        "model.stages": 4,
        "recipe.strategy.pretrained_stages": 4,
        "model.decoder_channels": lowest_four,
        "recipe.strategy.start": lowest_four,
        "recipe.strategy.rate": lowest_four,
    },
    "late": {"recipe.strategy.start": twice},
    "192": {"model.patch": partial(with_sides, 192)},
    "256": {"model.patch": partial(with_sides, 256)},
}
"""Change of an arm that is no decoder -> what it changes in the plan."""


def arm_edits(encoder: str, dataset: str, arm: str) -> dict[str, Any]:
    """What an arm changes in the plan."""
    if not arm or arm in CHANGES:
        return CHANGES.get(arm, {})
    return {"model.decoder_channels": decoder_channels(encoder, dataset, arm)}


def decoder_channels(encoder: str, dataset: str, decoder: str) -> list[int]:
    """Channels of each block of a decoder for a data set's network."""
    stages = STAGES.get(dataset, 5)
    return [DECODERS[decoder][stride] for stride in entry(encoder).strides[:stages]]


def runs(data: Path, minutes: float, resnet18: Path | None) -> list[BenchRun]:
    made = []
    for name, (dataset, cases, configuration) in SETTINGS.items():
        lists = lists_of(dataset)["few_shot"]
        for encoder, arm in ARMS:
            if encoder not in BUNDLED and resnet18 is None:
                continue
            strategy, _, change = arm.partition("+")
            made.append(
                BenchRun(
                    name=f"{name}-{cases}-{encoder}-{arm}-{minutes:g}min",
                    dataset=data / dataset,
                    train=lists[str(cases)],
                    test=held_out(lists),
                    options={
                        "config": configuration,
                        "encoder": encoder,
                        **start(strategy, "bundled" if encoder in BUNDLED else str(resnet18)),
                        "time_budget": 60 * minutes,
                    },
                    edits=arm_edits(encoder, dataset, change),
                )
            )
    return made


def table(results: Path) -> str:
    """Mean Dice of each arm over its seeds, with the steps of one of them."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(results):
        dataset, cases, encoder, strategy, minutes = row["name"].split("-")
        dice = statistics.mean(figures_of(row["dice"]).values())
        found[f"{encoder} {strategy}", minutes][f"{dataset} {cases}"].append((dice, row["steps"]))
    columns = [f"{name} {cases}" for name, (_, cases, _) in SETTINGS.items()]
    lines = [f"| encoder, strategy | time | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for (arm, minutes), by_data in sorted(found.items()):
        cells = []
        for column in columns:
            runs_of = by_data.get(column, [])
            mean = f"{statistics.mean(dice for dice, _ in runs_of):.3f}" if runs_of else "–"
            cells.append(f"{mean} ({runs_of[0][1]} steps, {len(runs_of)} seed(s))" if runs_of else mean)
        lines.append(f"| {arm} | {minutes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5, help="of training in each run")
    parser.add_argument(
        "--resnet18", type=Path, help="weights of a ResNet-18 trained on Tiny ImageNet; its runs need them"
    )
    given = parser.parse_args()
    results = RESULTS / "encoders.csv"
    run_all(runs(given.data, given.minutes, given.resnet18), results, given)
    print(table(results))


if __name__ == "__main__":
    main()
