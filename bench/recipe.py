"""One part of the recipe at a time, against the Dice it gives with 5 and 20 cases and few steps.

Trained on the data set's own lists of 5 and 20 hippocampus cases, in 3D, bundled weights fine-tuned, a fixed number of
steps; scored on 40 others of its list of 160. Its test cases are not touched. Every variant changes one thing against
``strength0.5``. Finished cells are kept in ``bench/results/recipe``.

    python bench/recipe.py --seeds 0 1 2 --parallel 2
    python bench/recipe.py --only strength --epochs 24 --parallel 2
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from cells import HERE, Cell, arguments, held_out, run_cells

from seg_transfer.planning.rules.augmentation import STRENGTHS, augmentation

CASES = (5, 20)
EPOCH = 100
USUAL = "strength0.5"
AUGMENTATION = "recipe.augmentation"


def strength(value: float) -> dict[str, Any]:
    """The plan's augmentation at a strength, for isotropic volumes; mirroring stays as planned."""
    chosen, _ = augmentation(value, ratio=1, configuration="3d", unit="mm", channels=(), mirrored=())
    fields = chosen.model_dump(mode="json", exclude={"mirror_axes"})
    return {f"{AUGMENTATION}.{name}": setting for name, setting in fields.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"strength{value:g}": strength(value) for value in STRENGTHS},
    "elastic": {f"{AUGMENTATION}.elastic_probability": 0.2, f"{AUGMENTATION}.elastic_amount": 0.2},
    "low-resolution": {f"{AUGMENTATION}.low_resolution_probability": 0.2},
    "cutout": {f"{AUGMENTATION}.cutout_probability": 0.2},
    "cutmix": {f"{AUGMENTATION}.cutmix_probability": 0.3},
    "inflation-centre": {"model.inflation": "centre"},
    "batchnorm-source": {"recipe.strategy.batchnorm": "source"},
    "batchnorm-trained": {"recipe.strategy.batchnorm": "trained"},
    "encoder-rate-0.1": {"recipe.strategy.encoder_lr_ratio": 0.1},
    "encoder-rate-1": {"recipe.strategy.encoder_lr_ratio": 1.0},
    "no-deep-supervision": {"recipe.deep_supervision": False},
}


def cells(data: Path, epochs: int) -> list[Cell]:
    dataset = data / "hippocampus"
    lists = json.loads((dataset / "splits.json").read_text())["few_shot"]
    options = {"config": "3d", "encoder": "resnet18", "weights": "bundled", "strategy": "finetune", "epochs": epochs}
    return [
        Cell(
            name=f"{cases}-{variant}-{epochs * EPOCH}steps",
            dataset=dataset,
            train=lists[str(cases)],
            test=held_out(lists),
            options=options,
            edits={"recipe.steps_per_epoch": EPOCH, **VARIANTS[USUAL], **edits},
        )
        for variant, edits in VARIANTS.items()
        for cases in CASES
    ]


def table(results: Path) -> str:
    """Mean Dice of each cell, and its difference from the usual recipe on the same seeds, in points."""
    found: dict[tuple[int, int, str], dict[int, float]] = defaultdict(dict)
    for path in results.glob("*.json"):
        r = json.loads(path.read_text())
        variant = r["cell"].split("-", 1)[1].rsplit("-", 1)[0]
        found[r["steps"], r["train_cases"], variant][r["seed"]] = statistics.mean(r["dice"].values())
    lines = ["| steps | cases | variant | mean Dice | minus usual, points, each seed |", "|---|---|---|---|---|"]
    for (steps, cases, variant), seeds in sorted(found.items()):
        usual = found[steps, cases, USUAL]
        less = ", ".join(f"{100 * (seeds[seed] - usual[seed]):+.2f}" for seed in sorted(seeds.keys() & usual.keys()))
        lines.append(f"| {steps} | {cases} | {variant} | {statistics.mean(seeds.values()):.4f} | {less} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help=f"of {EPOCH} steps")
    options = parser.parse_args()
    results = HERE / "results" / "recipe"
    run_cells(cells(options.data, options.epochs), results, options)
    print(table(results))


if __name__ == "__main__":
    main()
