"""A label of 0.01 % of all voxels: what drawing patches by label first gains over drawing the case first.

The set is made here. Every case has an organ, a ball in noise. In every fourth case there lies in it a tiny label, a
small bright ball; small dark balls are in all of them. Over the whole set the tiny label is 0.01 % of the voxels. Tiny
2D networks are trained, alike but for how patches are drawn, and scored on whole cases that all have the tiny label.

- label first: the label, then a case that has it, then a voxel (what segtl does)
- case first: the case, then a label that it has, then a voxel
- anywhere: no patch is centred on a label

    python bench/imbalance.py [--steps 400] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seg_transfer.catalogue.encoders import DEFAULT_ENCODER
from seg_transfer.data.image import Image, image_from_array
from seg_transfer.evaluation.case_scores import score_case
from seg_transfer.inference.predictor import Predictor
from seg_transfer.options.train_options import RunOptions
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.training import loop
from seg_transfer.training.batches import PatchSampler
from seg_transfer.training.run_folder import RunFolder

SHAPE = (96, 96, 24)
TRAIN, TEST = 12, 6
EVERY = 4
ORGAN, TINY, SPECK = 24.0, 4.0, 3.0
WAYS = {"label first": 0.5, "case first": 0.5, "anywhere": 0.0}


class CaseFirst(PatchSampler):
    """Draws the case first: a label of few cases is seen in few patches."""

    def foreground_patches(
        self, count: int, used: Sequence[int], generator: np.random.Generator
    ) -> list[tuple[int, int]]:
        cases = sorted({case for indices in self.cases_with.values() for case in indices})
        chosen = generator.choice(cases, count)
        return [
            (int(case), int(generator.choice([label for label, indices in self.cases_with.items() if case in indices])))
            for case in chosen
        ]


def ball(centre: np.ndarray, radius: float) -> np.ndarray:
    axes = zip(np.ogrid[tuple(map(slice, SHAPE))], centre, (1, 1, 3), strict=True)
    return sum(((axis - c) * step) ** 2 for axis, c, step in axes) < radius**2


def make_case(seed: int, *, tiny: bool) -> tuple[Image, np.ndarray]:
    """Image and class indices ``(x, y, z)``."""
    draw = np.random.default_rng(seed)
    middle = np.array(SHAPE) / 2 + draw.uniform(-8, 8, 3) * (1, 1, 0.3)

    def within() -> np.ndarray:
        return middle + draw.uniform(-11, 11, 3) * (1, 1, 0.3)

    classes = ball(middle, ORGAN).astype(np.uint8)
    image = draw.normal(0, 0.6, SHAPE) + classes
    for _ in range(4):
        image[ball(within(), SPECK)] -= 1.5
    if tiny:
        inside = ball(within(), TINY)
        image[inside] += 1.5
        classes[inside] = 2
    return image_from_array(image.astype(np.float32), (1.0, 1.0, 3.0)), classes


def make_plan(share: float, steps: int) -> Plan:
    cases = [f"case_{index:02}" for index in range(TRAIN)]
    settings: dict[str, Any] = {
        "data": {
            "dataset": "imbalance",
            "dimension": 3,
            "unit": "mm",
            "channels": [{"name": "MR", "normalization": {"kind": "zscore"}}],
            "labels": [{"name": name, "value": value} for value, name in enumerate(("background", "organ", "tiny"))],
            "cases": cases,
            "axes": (2, 0, 1),
            "spacing": (3.0, 1.0, 1.0),
            "crop_nonzero": False,
            "slice_order": 1,
        },
        "model": {
            "configuration": "2d",
            "patch": (1, 64, 64),
            "encoder": DEFAULT_ENCODER,
            "weights": {"source": "bundled"},
            "stages": 3,
            "slice_strides": (),
            "input_mapping": "as_is",
            "decoder_channels": (16, 32, 64),
        },
        "recipe": {
            "strategy": {
                "name": "finetune",
                "start": (0.0,) * 3,
                "rate": (0.3,) * 3,
                "batchnorm": "recalibrated",
                "pretrained_stages": 3,
            },
            "batch_size": 8,
            "epochs": 1,
            "steps_per_epoch": steps,
            "learning_rate": 3e-3,
            "precision": "float32",
            "ema_decay": 0.95,
            "foreground_share": share,
            "augmentation": {"mirror_axes": (1, 2)},
            "splits": [{"train": cases, "validation": []}],
        },
    }
    return Plan.model_validate(settings)


def run(way: str, seed: int, steps: int, folder: Path) -> tuple[float, float]:
    """Mean Dice of organ and tiny label on the held-out cases."""
    plan = make_plan(WAYS[way], steps)
    store = Store.create(folder / f"store-{seed}", plan.data)
    voxels = np.zeros(3, np.int64)
    for index, case in enumerate(plan.data.cases):
        image, classes = make_case(1000 * seed + index, tiny=index % EVERY == 0)
        transform = CaseTransform.fit(image, plan.data)
        store.add(case, transform.slabs(image), transform.label(classes), transform)
        voxels += store.case(case).voxels
    loop.PatchSampler = CaseFirst if way == "case first" else PatchSampler  # type: ignore[misc]
    options = RunOptions(device="cpu", seed=seed, workers=1)
    full = RunFolder(folder / f"{way}-{seed}", "full")
    loop.train_fold(plan, store, full, options=options)
    predictor = Predictor.load([full.model])
    dice = []
    for index in range(TEST):
        image, classes = make_case(1000 * seed + 500 + index, tiny=True)
        scores = score_case(predictor.array(image.array, image.spacing), classes, [1, 2], image.spacing)
        dice.append((scores[1].metrics["dice"], scores[2].metrics["dice"]))
    organ, tiny = np.mean(dice, axis=0)
    print(f"{way:12} seed {seed}: organ {organ:.3f}, tiny {tiny:.3f} ({voxels[2] / voxels.sum():.4%} of all voxels)")
    return float(organ), float(tiny)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for way in WAYS:
                found[way].append(run(way, seed, options.steps, Path(folder)))
    print(f"\n{TRAIN} cases, {options.steps} steps, {options.seeds} seed(s), {TEST} held-out cases each; mean Dice")
    print("| patches | organ | tiny | tiny, each seed |\n|---|---|---|---|")
    for way, dice in found.items():
        organ, tiny = (statistics.mean(each) for each in zip(*dice, strict=True))
        print(f"| {way} | {organ:.3f} | {tiny:.3f} | {', '.join(f'{each[1]:.3f}' for each in dice)} |")


if __name__ == "__main__":
    main()
