"""One part of the recipe at a time, against the Dice it gives with few cases and few steps.

Trained on the data sets' own lists of 5 and 20 cases, hippocampus in 3D and 2.5D and cells in 2D, of 8 in 2D of
retinas, of 5 in 2.5D of abdomen MR and of 6 of sarcoma; the default encoder, unfrozen gradually, a fixed number of
steps; scored on cases of their longest list that are not in the shorter ones. Their test cases are not touched. Every
variant changes one thing against ``usual``, the recipe before 2026-11-28: without positions, half of today's rate.
A ``3d`` in a setting's name was asked for, where the planner takes 2.5D.
Finished runs are kept in ``bench/results/recipe.csv``; those of ``resnet18``, whose usual recipe is fine-tuned from the
start, are of earlier versions.

    python bench/recipe.py --seeds 0 1 2 --parallel 2
    python bench/recipe.py --only hippocampus-5-usual --epochs 24 --parallel 2
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rows import figures_of, read_rows
from runner import RESULTS, BenchRun, arguments, held_out, lists_of, run_all

from seg_transfer.catalogue.encoders import DEFAULT_ENCODER
from seg_transfer.data.geometry import Unit
from seg_transfer.planning.cost import Configuration
from seg_transfer.planning.data_plan import Channel, Normalization
from seg_transfer.planning.rules.augmentation import NetworkAxis, augmentation

EPOCH = 100
USUAL = "usual"
FORMER: dict[str, Any] = {"model.position": False, "recipe.learning_rate": 3e-3, "model.inflation": "average"}
"""What plans had before 2026-11-28, of inflation before 2026-11-30: every variant changes one thing of that."""
POSITION: dict[str, Any] = {"model.position": True, "recipe.learning_rate": 6e-3}
"""What plans have had since 2026-11-28."""
TODAY: dict[str, Any] = {**POSITION, "model.inflation": "centre"}
"""What plans have had since 2026-11-30, without structures that change on their own."""
AUGMENTATION = "recipe.augmentation"
LATE_FROM, LATE_TO = 0.3, 0.6
"""Progress at which the top and the lowest stage start to learn; plans have 0.1 and 0.3."""


@dataclass(frozen=True)
class Setting:
    """A data set in a configuration, the encoder stages that are used, and what its augmentation is planned from."""

    name: str
    dataset: str
    cases: tuple[int, ...]
    configuration: Configuration
    stages: int
    unit: Unit
    channels: tuple[Channel, ...] = ()
    mirrored: tuple[NetworkAxis, ...] = ()


RGB = tuple(Channel(name=name, normalization=Normalization(kind="zscore")) for name in "RGB")
SETTINGS = (
    Setting("hippocampus", "hippocampus", (5, 20), "3d", 3, "mm"),
    Setting("hippocampus_2.5d", "hippocampus", (5, 20), "2.5d", 3, "mm"),
    Setting("abdomen_mr", "abdomen_mr", (5,), "2.5d", 5, "mm"),
    Setting("abdomen_mr_3d", "abdomen_mr", (5,), "3d", 5, "mm"),
    Setting("sarcoma", "sarcoma", (6,), "2.5d", 5, "mm"),
    Setting("sarcoma_3d", "sarcoma", (6,), "3d", 5, "mm"),
    Setting("cells", "cells", (5, 20), "2d", 5, "pixel", RGB, (1, 2)),
    Setting("retina", "retina", (8,), "2d", 5, "pixel", RGB, (1, 2)),
)


def planned(setting: Setting) -> dict[str, Any]:
    """The plan's augmentation at equal spacings, no structure on its own; mirroring and spread stay as planned."""
    chosen, _ = augmentation(
        ratio=1, configuration=setting.configuration, unit=setting.unit, mirrored=setting.mirrored, spread=(), labels=0
    )
    fields = chosen.model_dump(mode="json", exclude={"mirror_axes", "structure_spread"})
    return {f"{AUGMENTATION}.{name}": value for name, value in fields.items()}


def late(setting: Setting) -> dict[str, Any]:
    """Gradual unfreezing from the top down in even steps, as planned, but later."""
    return {"recipe.strategy.start": np.linspace(LATE_TO, LATE_FROM, setting.stages).round(3).tolist()}


def rates(top: float, decay: float, setting: Setting) -> dict[str, Any]:
    """Rates over the decoder's, from the top stage down each ``decay`` times that above."""
    return {"recipe.strategy.rate": [top * decay**below for below in range(setting.stages)][::-1]}


def enlarged(spacing: list[float]) -> list[float]:
    """Spacing of images that are twice as large in-plane; the patch has as many voxels as before."""
    along, u, v = spacing
    return [along, u / 2, v / 2]


def finer(spacing: list[float]) -> list[float]:
    """Spacing of images that are a third larger in-plane; the patch has as many voxels as before."""
    along, u, v = spacing
    return [along, u * 0.75, v * 0.75]


MILD = {
    "rotate_probability": 0.1,
    "scale_probability": 0.1,
    "scale_range": (0.85, 1.2),
    "noise_probability": 0.05,
    "noise_std": 0.05,
    "blur_probability": 0.1,
    "brightness_probability": 0.08,
    "brightness_range": (0.9, 1.1),
    "contrast_probability": 0.08,
    "contrast_range": (0.9, 1.1),
    "gamma_probability": 0.15,
    "gamma_range": (0.85, 1.25),
}
"""About half of everything."""
RATES = {"encoder-rate-0.1": (0.1, 0.9), "encoder-rate-1": (1.0, 0.9), "minmax-similar": (0.1, 1.0)}
"""Variant -> rate of the top stage, and what each stage below takes of it; the last is what plans had once, with the
source's BatchNorm, where images in a fixed range were thought similar to the source's."""
VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "mild": {f"{AUGMENTATION}.{name}": value for name, value in MILD.items()},
    "low-resolution": {f"{AUGMENTATION}.low_resolution_probability": 0.2},
    "inflation-centre": {"model.inflation": "centre"},
    "position": {"model.position": True},
    "position-rate-0.006": POSITION,
    "position-rate-0.012": {"model.position": True, "recipe.learning_rate": 1.2e-2},
    "position-rate-0.006-centre": TODAY,
    "structures": {**TODAY, f"{AUGMENTATION}.structure_probability": 0.5},
    "frozen-centre": {"model.inflation": "centre"},
    "batchnorm-source": {"recipe.strategy.batchnorm": "source"},
    "batchnorm-trained": {"recipe.strategy.batchnorm": "trained"},
    "encoder-rate-0.1": {},
    "encoder-rate-1": {},
    "rate-0.0015": {"recipe.learning_rate": 1.5e-3},
    "rate-0.006": {"recipe.learning_rate": 6e-3},
    "rate-0.012": {"recipe.learning_rate": 1.2e-2},
    "long-warm-up": {"recipe.warmup": 0.2},
    "no-weight-decay": {"recipe.weight_decay": 0.0},
    "weight-decay-0.1": {"recipe.weight_decay": 0.1},
    "no-average": {"recipe.ema_decay": 0.0},
    "enlarged": {"data.spacing": enlarged},
    "finer": {"data.spacing": finer},
    "no-deep-supervision": {"recipe.deep_supervision": False},
    "minmax": {},
    "minmax-similar": {"recipe.strategy.batchnorm": "source"},
    "scratch": {},
    "frozen": {},
    "finetune": {},
    "late": {},
}
MINMAX = {"minmax", "minmax-similar"}
"""Of 2D images, which are z-scored otherwise."""
BASES = {
    "position-rate-0.006-centre": "position-rate-0.006",
    "frozen-centre": "frozen",
    "structures": "position-rate-0.006-centre",
}
"""Variant -> the one that it is compared with; all others with ``usual``."""
STRATEGIES = {"frozen": "frozen", "frozen-centre": "frozen", "finetune": "finetune"}
"""Variant -> its strategy; all others unfreeze gradually."""


def edits(variant: str, setting: Setting) -> dict[str, Any]:
    """What a variant changes in the plan."""
    schedule = late(setting) if variant == "late" else {}
    if variant in RATES:
        schedule |= rates(*RATES[variant], setting)
    return {"recipe.steps_per_epoch": EPOCH, **FORMER, **planned(setting), **schedule, **VARIANTS[variant]}


def options(variant: str, setting: Setting) -> dict[str, Any]:
    """What a variant asks of the planner."""
    asked = {
        "config": setting.configuration,
        "encoder": DEFAULT_ENCODER,
        "weights": "bundled",
        "strategy": STRATEGIES.get(variant, "gradual"),
    }
    if variant in MINMAX:
        asked["normalization"] = {channel.name: "minmax" for channel in setting.channels}
    return asked


def runs(data: Path, epochs: int) -> list[BenchRun]:
    made = []
    for setting in SETTINGS:
        dataset = data / setting.dataset
        lists = lists_of(setting.dataset)["few_shot"]
        made += [
            BenchRun(
                name=f"{setting.name}-{cases}-{variant}-{epochs * EPOCH}steps-{DEFAULT_ENCODER}",
                dataset=dataset,
                train=lists[str(cases)],
                test=held_out(lists),
                options={**options(variant, setting), "epochs": epochs},
                edits=edits(variant, setting),
                from_scratch=variant == "scratch",
            )
            for variant in VARIANTS
            if setting.channels or variant not in MINMAX
            for cases in setting.cases
        ]
    return made


def table(results: Path) -> str:
    """Mean Dice of each run, and its difference from the run that it is compared with, on the same seeds, in points."""
    found: dict[tuple[str, str, int, int, str], dict[int, float]] = defaultdict(dict)
    for row in read_rows(results):
        dataset, _, variant = row["name"].rsplit("-", 2)[0].split("-", 2)
        key = row["encoder"], dataset, int(row["steps"]), int(row["train_cases"]), variant
        found[key][int(row["seed"])] = statistics.mean(figures_of(row["dice"]).values())
    lines = [
        "| encoder | data set | steps | cases | variant | mean Dice | minus | points, each seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (*key, variant), seeds in sorted(found.items()):
        base = BASES.get(variant, USUAL)
        other = found.get((*key, base), {})  # type: ignore[arg-type]
        less = ", ".join(f"{100 * (seeds[seed] - other[seed]):+.2f}" for seed in sorted(seeds.keys() & other.keys()))
        mean = statistics.mean(seeds.values())
        lines.append(f"| {' | '.join(map(str, key))} | {variant} | {mean:.4f} | {base} | {less} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6, help=f"of {EPOCH} steps")
    given = parser.parse_args()
    results = RESULTS / "recipe.csv"
    run_all(runs(given.data, given.epochs), results, given)
    print(table(results))


if __name__ == "__main__":
    main()
