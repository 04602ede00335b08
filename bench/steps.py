"""Measures one training step: strategies against each other (paired), precision, and what augmentation and loss cost.

    python bench/steps.py [--rounds 8] [--threads 2] [--encoder tf_efficientnet_lite0]

"frozen, not folded" is what frozen stages cost with BatchNorm; in training it is folded into convolutions.

Data are random: time does not depend on them. Strategies take turns step by step, so that a busy machine hits all
alike; medians are reported, and the ratio to finetune as the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import save_file

from seg_transfer.catalogue.encoders import BUNDLED, DEFAULT_ENCODER, entry
from seg_transfer.network.depthwise import depthwise_gain
from seg_transfer.options.choices import Precision
from seg_transfer.planning.cost import Machine
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.rules import optimization
from seg_transfer.training.augment import apply, sample_transforms
from seg_transfer.training.batches import Batch, seeded_generator
from seg_transfer.training.losses import deep_loss
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import bfloat16_gain

SHAPES = {"2d": (48, (1, 56, 40)), "2.5d": (48, (5, 56, 40)), "3d": (4, (40, 56, 40))}
STAGES = 4


def learns(*start: float | None, pretrained_stages: int = STAGES, batchnorm: str = "recalibrated") -> dict[str, Any]:
    """A strategy of stages that start to learn at this progress; the rate does not change a step's time."""
    rate = [0.0 if each is None else 0.1 for each in start]
    return {
        "name": "made",
        "start": start,
        "rate": rate,
        "batchnorm": batchnorm,
        "pretrained_stages": pretrained_stages,
    }


STRATEGIES = {
    "finetune": learns(0.0, 0.0, 0.0, 0.0),
    "scratch": learns(0.0, 0.0, 0.0, 0.0, pretrained_stages=0, batchnorm="trained"),
    "partial 2": learns(None, None, 0.0, 0.0),
    "frozen": learns(None, None, None, None),
    "frozen, not folded": learns(None, None, None, None),
}


def planned_precision() -> Precision:
    """The precision that a plan on this machine has."""
    return optimization.precision(Machine("cpu", bfloat16_gain=bfloat16_gain("cpu")))[0]


def with_gradients(plan: Plan, gradients: Literal["torch", "fast"]) -> Plan:
    """The plan with these gradients of depthwise convolutions."""
    return plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"depthwise_gradients": gradients})})


def with_planned_gradients(plan: Plan) -> Plan:
    """The plan with the gradients of depthwise convolutions that planning chooses here for its precision."""
    machine = Machine("cpu", bfloat16_gain=bfloat16_gain("cpu") if plan.recipe.precision == "bfloat16" else 1.0)
    return with_gradients(plan, optimization.depthwise_gradients(plan.model, machine, depthwise_gain)[0])


def weights_of(encoder: str) -> dict[str, str]:
    """The weights that come with the package; for other encoders a file of random ones, which take as long."""
    if encoder in BUNDLED:
        return {"source": "bundled"}
    path = Path(tempfile.gettempdir()) / f"{encoder}-random.safetensors"
    save_file(timm.create_model(entry(encoder).library_name, pretrained=False).state_dict(), path)
    return {"source": "file", "path": str(path)}


def make_plan(configuration: str, strategy: str, precision: str, encoder: str = DEFAULT_ENCODER) -> Plan:
    batch, patch = SHAPES[configuration]
    return Plan.model_validate(
        {
            "data": {
                "dataset": "random",
                "dimension": 3,
                "unit": "mm",
                "channels": [{"name": "MR", "normalization": {"kind": "zscore"}}],
                "labels": [{"name": str(value), "value": value} for value in range(3)],
                "cases": ["a"],
                "axes": (0, 1, 2),
                "spacing": (1.0, 1.0, 1.0),
                "crop_nonzero": False,
                "slice_order": 3,
            },
            "model": {
                "configuration": configuration,
                "patch": patch,
                "encoder": encoder,
                "weights": {"source": "none"} if strategy == "scratch" else weights_of(encoder),
                "stages": STAGES,
                "slice_strides": (2,) * STAGES if configuration == "3d" else (),
                "input_mapping": "as_is",
                "decoder_channels": (32, 64, 128, 256)[:STAGES],
            },
            "recipe": {
                "strategy": STRATEGIES[strategy],
                "batch_size": batch,
                "epochs": 1,
                "precision": precision,
                "augmentation": {"rotate_out_of_plane": configuration == "3d", "mirror_axes": (0, 1, 2)},
                "splits": [{"train": ["a"], "validation": []}],
            },
        }
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_batch(configuration: str, size: int) -> Batch:
    """Random samples of the configuration's patch."""
    _, patch = SHAPES[configuration]
    slices = patch[0] if configuration == "3d" else 1
    return Batch(torch.randn(size, 1, *patch), torch.randint(0, 3, (size, slices, *patch[1:])))


def in_turns(trainers: Mapping[Any, Trainer], batch: Batch, rounds: int) -> dict[Any, list[float]]:
    """Seconds of the steps of several trainers that take turns; the first round is not counted."""
    times: dict[Any, list[float]] = {name: [] for name in trainers}
    for turn in range(rounds + 1):
        for name, trainer in trainers.items():
            took = seconds(lambda trainer=trainer, turn=turn: trainer.step(batch, turn, 0.5))
            if turn:
                times[name].append(took)
    return times


def paired_ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of steps of the same round."""
    return statistics.median(one / other for one, other in zip(mine, theirs, strict=True))


def measure(configuration: str, encoder: str, rounds: int) -> None:
    size, _ = SHAPES[configuration]
    batch = random_batch(configuration, size)
    precision = planned_precision()
    cells = [(name, precision) for name in STRATEGIES]
    if precision == "bfloat16":
        cells.append(("finetune", "float32"))
    plans = {cell: with_planned_gradients(make_plan(configuration, *cell, encoder)) for cell in cells}
    trainers = {cell: Trainer(plan, seed=0, device="cpu", load=True) for cell, plan in plans.items()}
    trainers["frozen, not folded", precision].network.encoder.fold = lambda stages: None  # type: ignore[method-assign]
    times = in_turns(trainers, batch, rounds)
    reference = times["finetune", precision]
    for (name, used), measured in times.items():
        ratio = paired_ratio(measured, reference)
        print(f"{configuration:5} {name:18} {used:9} {statistics.median(measured):7.3f} s  x{ratio:.2f}")

    augmentation = make_plan(configuration, "finetune", "float32").recipe.augmentation

    def augment() -> None:
        random = partial(seeded_generator, 0, "augment", next(steps))
        transforms = sample_transforms(augmentation, batch=size, channels=1, generator=random)
        apply(*batch, transforms, spacing=(1, 1, 1), out_of_plane=configuration == "3d")

    steps = itertools.count()
    outputs = [
        torch.randn(size, 3, *(-(-length // 2**stage) for length in batch.label.shape[1:]), requires_grad=True)
        for stage in range(STAGES)
    ]
    costs = {
        "augmentation": statistics.mean(seconds(augment) for _ in range(40)),
        "loss": statistics.median(seconds(lambda: deep_loss(outputs, batch.label).backward()) for _ in range(9)),
    }
    for name, took in costs.items():
        print(f"{configuration:5} {name:20} {took:7.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="a name of the catalogue")
    parser.add_argument("configurations", nargs="*", default=list(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for chosen in options.configurations:
        measure(chosen, options.encoder, options.rounds)


if __name__ == "__main__":
    main()
