"""How strongly patches are varied, against the Dice it gives: mild, nnU-Net's and strong, at 5 and 20 cases.

Trained on the data set's own lists of 5 and 20 hippocampus cases, in 3D, bundled weights fine-tuned, a fixed number of
steps; scored on 40 others of its list of 160. Its test cases are not touched. Finished cells are kept in
``bench/results/strength``.

    python bench/strength.py --seeds 0 1 2 --parallel 2
    python bench/strength.py --epochs 24 --parallel 2
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

from cells import HERE, Cell, arguments, held_out, run_cells

from seg_transfer.planning.rules.augmentation import STRENGTHS, augmentation

CASES = (5, 20)
EPOCH = 100


def edits(strength: float) -> dict[str, object]:
    """The plan's augmentation at a strength, for isotropic volumes; mirroring stays as planned."""
    chosen, _ = augmentation(strength, ratio=1, configuration="3d", unit="mm", channels=(), mirrored=())
    fields = chosen.model_dump(mode="json", exclude={"mirror_axes"})
    return {f"recipe.augmentation.{name}": value for name, value in fields.items()}


def cells(data: Path, epochs: int) -> list[Cell]:
    dataset = data / "hippocampus"
    lists = json.loads((dataset / "splits.json").read_text())["few_shot"]
    return [
        Cell(
            name=f"{cases}-strength{strength:g}-{epochs * EPOCH}steps",
            dataset=dataset,
            train=lists[str(cases)],
            test=held_out(lists),
            options={
                "config": "3d",
                "encoder": "resnet18",
                "weights": "bundled",
                "strategy": "finetune",
                "epochs": epochs,
            },
            edits={"recipe.steps_per_epoch": EPOCH, **edits(strength)},
        )
        for cases in CASES
        for strength in STRENGTHS
    ]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help=f"of {EPOCH} steps")
    options = parser.parse_args()
    results = HERE / "results" / "strength"
    run_cells(cells(options.data, options.epochs), results, options)
    found: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for path in sorted(results.glob("*.json")):
        r = json.loads(path.read_text())
        found[r["steps"], r["cell"]][r["seed"]] = statistics.mean(r["dice"].values())
    print("| cell | mean Dice | each seed |\n|---|---|---|")
    for (_, cell), seeds in sorted(found.items()):
        each = ", ".join(f"{seeds[seed]:.3f}" for seed in sorted(seeds))
        print(f"| {cell} | {statistics.mean(seeds.values()):.3f} | {each} |")


if __name__ == "__main__":
    main()
