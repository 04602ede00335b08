"""The encoder's BatchNorm: the source's statistics, re-estimated once, or trained; fine-tuned in 3D and 2.5D.

20 hippocampus cases, scored on 40 others of the data set's list of 160; its test cases are not touched. Finished cells
are kept in ``bench/results/batchnorm``.

    python bench/batchnorm.py --minutes 2
"""

from __future__ import annotations

import json
from pathlib import Path

from cells import HERE, Cell, arguments, held_out, lists_of, run_cells

MODES = ("source", "recalibrated", "trained")
CONFIGURATIONS = ("3d", "2.5d")


def cells(data: Path, minutes: float) -> list[Cell]:
    dataset = data / "hippocampus"
    lists = lists_of(dataset.name)["few_shot"]
    return [
        Cell(
            name=f"{configuration}-{mode}-{minutes:g}min",
            dataset=dataset,
            train=lists["20"],
            test=held_out(lists),
            options={
                "config": configuration,
                "encoder": "resnet18",
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
    results = HERE / "results" / "batchnorm"
    run_cells(cells(options.data, options.minutes), results, options)
    print("| cell | seed | steps | anterior | posterior |\n|---|---|---|---|---|")
    for path in sorted(results.glob("*.json")):
        r = json.loads(path.read_text())
        anterior, posterior = r["dice"].values()
        print(f"| {r['cell']} | {r['seed']} | {r['steps']} | {anterior:.3f} | {posterior:.3f} |")


if __name__ == "__main__":
    main()
