"""The encoder's BatchNorm: the source's statistics, re-estimated once, or trained; fine-tuned in 3D and 2.5D.

20 hippocampus cases, scored on 40 others of the data set's list of 160; its test cases are not touched. Finished runs
are kept in ``bench/results/batchnorm.csv``; names without an encoder are of ResNet-18, the default of earlier versions.

    python bench/batchnorm.py --minutes 2
"""

from __future__ import annotations

from pathlib import Path

from rows import figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, held_out, lists_of, run_all

from seg_transfer.catalogue.encoders import DEFAULT_ENCODER

MODES = ("source", "recalibrated", "trained")
CONFIGURATIONS = ("3d", "2.5d")


def runs(data: Path, minutes: float) -> list[BenchRun]:
    dataset = data / "hippocampus"
    lists = lists_of(dataset.name)["few_shot"]
    return [
        BenchRun(
            name=f"{configuration}-{mode}-{minutes:g}min-{DEFAULT_ENCODER}",
            dataset=dataset,
            train=lists["20"],
            test=held_out(lists),
            options={
                "config": configuration,
                "encoder": DEFAULT_ENCODER,
                "weights": "bundled",
                "strategy": "finetune",
                "time_budget": minutes * 60,
            },
            edits={"recipe.strategy.batchnorm": mode},
        )
        for configuration in CONFIGURATIONS
        for mode in MODES
    ]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=2)
    options = parser.parse_args()
    results = RESULTS / "batchnorm.csv"
    run_all(runs(options.data, options.minutes), results, options)
    print("| run | seed | steps | anterior | posterior |\n|---|---|---|---|---|")
    for r in sorted(read_rows(results), key=lambda row: (row["name"], int(row["seed"]))):
        anterior, posterior = figures_of(r["dice"]).values()
        print(f"| {r['name']} | {r['seed']} | {r['steps']} | {anterior:.3f} | {posterior:.3f} |")


if __name__ == "__main__":
    main()
