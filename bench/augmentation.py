"""What the data side of a training step costs: each random transform, all of a plan together, and reading patches.

    python bench/augmentation.py [--rounds 40] [--threads 2]

Batches are those of ``bench/steps.py``; their content is random, since time does not depend on it. The first table has
each transform alone, drawn for every sample. The second has what a plan draws, the reading of patches from a compressed
store and from memory, and the training step itself, without augmentation. The last row has reading and augmentation
together over the step. Augmentation is part of the step, reading goes on meanwhile in a thread of its own: below 1,
training never waits for patches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from steps import SHAPES, make_plan, seconds

from seg_transfer.data.image import image_from_array
from seg_transfer.planning.plan import Augmentation, Plan
from seg_transfer.planning.rules.augmentation import augmentation
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.augment import apply, sample_transforms
from seg_transfer.training.batches import Batch, PatchSampler, seeded_generator
from seg_transfer.training.trainer import Trainer

OFF = Augmentation(**{name: 0 for name in Augmentation.model_fields if name.endswith("_probability")})
TRANSFORMS = ["rotate", "scale", "stretch", "shear", "lens", "noise", "blur", "brightness", "contrast"]
TRANSFORMS += ["gamma", "low_resolution", "mirror", "colour"]
CASES, CASE = 6, (48, 192, 192)


def alone(name: str, configuration: str) -> Augmentation:
    """One transform for every sample."""
    tilted = {"rotate_out_of_plane": configuration == "3d"}
    if name == "mirror":
        return OFF.model_copy(update={"mirror_axes": (2,)})
    axes = {"low_resolution_axes": (0,) if configuration == "3d" else (1, 2)}
    return OFF.model_copy(update=tilted | axes | {f"{name}_probability": 1.0})


def planned(plan: Plan) -> Augmentation:
    """What a plan of an isotropic volume says."""
    return augmentation(
        ratio=1.0, configuration=plan.model.configuration, unit="mm", mirrored=(2,), spread=(0.3,), labels=2
    )[0]


def batch_of(configuration: str, channels: int) -> Batch:
    size, patch = SHAPES[configuration]
    slices = patch[0] if configuration == "3d" else 1
    return Batch(torch.rand(size, channels, *patch), torch.randint(0, 3, (size, slices, *patch[1:])))


def augmenting(chosen: Augmentation, batch: Batch, configuration: str) -> Callable[[], object]:
    steps = itertools.count()
    out_of_plane = configuration == "3d"

    def work() -> None:
        size, channels = batch.image.shape[:2]
        random = partial(seeded_generator, 0, "augment", next(steps))
        transforms = sample_transforms(chosen, batch=size, channels=channels, generator=random)
        apply(*batch, transforms, spacing=(1, 1, 1), out_of_plane=out_of_plane)

    return work


def mean_seconds(work: Callable[[], object], rounds: int) -> float:
    """Mean, since what is drawn decides the time; the first round warms up."""
    return statistics.mean([seconds(work) for _ in range(rounds + 1)][1:])


def make_store(folder: Path, plan: Plan) -> Store:
    """Noise with a smooth background in 12 bits, which compresses like an image."""
    store = Store.create(folder, plan.data)
    random = np.random.default_rng(0)
    for case in range(CASES):
        coarse = torch.from_numpy(random.normal(size=(1, 1, 6, 12, 12)).astype(np.float32))
        smooth = torch.nn.functional.interpolate(coarse, size=CASE, mode="trilinear")[0].numpy()
        volume = np.round((smooth + 0.05 * random.normal(size=CASE)) * 500).astype(np.float32) / 500
        label = (smooth[0] > 1).astype(np.uint8) + (smooth[0] > 1.5)
        store.add(
            f"case_{case}",
            [(0, 0, volume[0])],
            label,
            CaseTransform.fit(image_from_array(volume, (1, 1, 1)), plan.data),
        )
    return store


def reading(store: Store, plan: Plan, cache_bytes: int, rounds: int) -> float:
    sampler = PatchSampler(
        store,
        store.cases(),
        plan.model,
        batch_size=plan.recipe.batch_size,
        foreground_share=plan.recipe.foreground_share,
        seed=0,
        cache_bytes=cache_bytes,
    )
    return statistics.mean(seconds(lambda step=step: sampler.batch(step)) for step in range(rounds))


def step_seconds(plan: Plan, batch: Batch, rounds: int) -> float:
    trainer = Trainer(
        plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"augmentation": OFF})}),
        seed=0,
        device="cpu",
        load=True,
    )
    return statistics.median(
        [seconds(lambda step=step: trainer.step(batch, step, 0.5)) for step in range(rounds + 1)][1:]
    )


def table(title: str, rows: dict[str, dict[str, str]], configurations: list[str]) -> None:
    print(f"| {title} | {' | '.join(configurations)} |")
    print("|---" * (1 + len(configurations)) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells[one] for one in configurations)} |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("configurations", nargs="*", default=list(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    each: dict[str, dict[str, str]] = {name: {} for name in TRANSFORMS}
    whole: dict[str, dict[str, str]] = {}
    for configuration in options.configurations:
        plan, batch = make_plan(configuration, "finetune", "bfloat16"), batch_of(configuration, 1)
        for name in TRANSFORMS:
            shown = batch_of(configuration, 3) if name == "colour" else batch
            took = mean_seconds(augmenting(alone(name, configuration), shown, configuration), options.rounds)
            each[name][configuration] = f"{1000 * took:.1f}"
        varying = mean_seconds(augmenting(planned(plan), batch, configuration), options.rounds)
        took = {"augmentation as planned": varying}
        with tempfile.TemporaryDirectory() as place:
            store = make_store(Path(place) / "store", plan)
            took["reading from the store"] = stored = reading(store, plan, 0, options.rounds)
            took["reading from memory"] = reading(store, plan, 10**10, options.rounds)
        took["training step"] = step = step_seconds(plan, batch, max(3, options.rounds // 4))
        for name, value in took.items():
            whole.setdefault(name, {})[configuration] = f"{1000 * value:.1f}"
        shares = {"augmentation over step": varying / step}
        shares["reading from the store and augmentation over step"] = (stored + varying) / step
        for name, share in shares.items():
            whole.setdefault(name, {})[configuration] = f"{share:.2f}"
    table("alone, for every sample, ms a batch", each, options.configurations)
    table("ms a batch", whole, options.configurations)


if __name__ == "__main__":
    main()
