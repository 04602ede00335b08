"""Measures how fast each encoder is on this machine: a training step, frozen and fine-tuned, and inference.

    python bench/encoder_speed.py                 measures every encoder, writes results/encoder_speed.json and
                                                  the column ``slowness`` of seg_transfer/encoders.json
    python bench/encoder_speed.py --only regnety  measures these, keeps the other results
    python bench/encoder_speed.py --table         prints the results; measures nothing
    python bench/encoder_speed.py --smoke         smallest sizes, one round; writes nothing

The network is the planner's U-Net over the stages down to stride 16, random weights, one channel, three classes,
bfloat16; steps are those of ``segtl train`` with augmentation. ``slowness`` is of the encoder alone: seconds of a
forward and backward pass per operation that the catalogue counts, over ResNet-18's, as the median of pairs taken in
turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from cells import HERE, commit, machine
from encoder_table import TABLE, save
from steps import learns, make_plan, seconds

from seg_transfer.catalogue.encoders import BUNDLED_ENCODER, ENCODERS, entry
from seg_transfer.planning.cost import Shape
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import Weights
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.strategy import Strategy
from seg_transfer.training.batches import Batch
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.files import write_text

RESULTS = HERE / "results" / "encoder_speed.json"
DEEPEST_STRIDE = 16
CLASSES = 3


@dataclass(frozen=True)
class Size:
    """Samples in a batch, and their patch."""

    batch: int
    patch: Triple


SIZES = {"2d": Size(8, (1, 128, 128)), "3d": Size(2, (24, 64, 64))}
SMOKE = {"2d": Size(2, (1, 32, 32)), "3d": Size(2, (4, 32, 32))}


def shape(name: str, configuration: str, size: Size) -> Shape:
    """The network of an encoder; in 3D it strides along the slices at its first two stages."""
    known = entry(name)
    strides = [stride for stride in known.strides if stride <= DEEPEST_STRIDE]
    return Shape(
        entry=known,
        configuration=configuration,
        patch=size.patch,
        stages=len(strides),
        slice_strides=(2, 2, 1, 1)[: len(strides)] if configuration == "3d" else (),
        decoder_channels=decoder_channels(strides, "cpu")[0],
        channels=1,
        classes=CLASSES,
    )


def trainer(made: Shape, strategy: str) -> Trainer:
    plan = make_plan(made.configuration, strategy, "bfloat16")
    model = plan.model.model_copy(
        update={
            "patch": made.patch,
            "encoder": made.entry.name,
            "weights": Weights(source="none"),
            "stages": made.stages,
            "slice_strides": made.slice_strides,
            "decoder_channels": made.decoder_channels,
        }
    )
    start = {"frozen": None, "finetune": 0.0}[strategy]
    learning = Strategy.model_validate(learns(*[start] * made.stages, pretrained_stages=0))
    recipe = plan.recipe.model_copy(update={"strategy": learning})
    return Trainer(plan.model_copy(update={"model": model, "recipe": recipe}), seed=0, device="cpu", load=True)


def encoder_pass(name: str, configuration: str, size: Size) -> tuple[Callable[[], None], float]:
    """A forward and backward pass of the encoder alone in training, and its forward operations."""
    made = shape(name, configuration, size)
    encoder = trainer(made, "scratch").network.encoder.train()
    image = torch.randn(size.batch, 1, *size.patch).clone(memory_format=torch.channels_last_3d)

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            stages = encoder(image)
        sum(stage.float().mean() for stage in stages).backward()

    flops = sum(made.entry.costs[kind].flops[stage] * entering for stage, kind, entering in made.per_stage())
    return work, flops * size.batch * made.voxels


def slowness(name: str, configuration: str, size: Size, rounds: int) -> float:
    """Seconds per operation over ResNet-18's."""
    if name == BUNDLED_ENCODER:
        return 1.0
    mine, flops = encoder_pass(name, configuration, size)
    theirs, reference_flops = encoder_pass(BUNDLED_ENCODER, configuration, size)
    ratios = [seconds(mine) / seconds(theirs) for _ in range(rounds + 1)][1:]
    return statistics.median(ratios) / (flops / reference_flops)


def measure(name: str, configuration: str, size: Size, rounds: int) -> dict[str, float]:
    """Milliseconds per sample of each kind of step, and the slowness."""
    made = shape(name, configuration, size)
    slices = size.patch[0]
    batch = Batch(
        torch.randn(size.batch, 1, *size.patch), torch.randint(0, CLASSES, (size.batch, slices, *size.patch[1:]))
    )
    learning = {strategy: trainer(made, strategy) for strategy in ("frozen", "finetune")}
    network = learning["finetune"].averaged.network

    def infer() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            network(batch.image)

    steps: dict[str, Callable[[], object]] = {
        **{key: lambda made=value: made.step(batch, 0, 0.5) for key, value in learning.items()},
        "inference": infer,
    }
    times: dict[str, list[float]] = {key: [] for key in steps}
    for turn in range(rounds + 1):
        for key, work in steps.items():
            took = seconds(work)
            if turn:
                times[key].append(took)
    row = {f"{key}_ms": round(1000 * statistics.median(taken) / size.batch, 2) for key, taken in times.items()}
    return {**row, "slowness": round(slowness(name, configuration, size, rounds), 2)}


def table(results: dict) -> str:
    """Milliseconds per sample as a table."""
    columns = ("frozen_ms", "finetune_ms", "inference_ms", "slowness")
    lines = [
        f"{results['machine']}, {results['threads']} threads, torch {results['torch']}, {results['commit']}; "
        f"ms per sample, batches of {results['sizes']}",
        "",
        "| encoder | "
        + " | ".join(f"{kind} {column.removesuffix('_ms')}" for kind in SIZES for column in columns)
        + " |",
        "|---" * (1 + len(SIZES) * len(columns)) + "|",
    ]
    for name, row in results["encoders"].items():
        cells = [f"{row[kind][column]:g}" if kind in row else "–" for kind in SIZES for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def update_catalogue(results: dict) -> None:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["encoders"]
    for name, row in results["encoders"].items():
        rows[name]["slowness"] = [row["2d"]["slowness"], row["3d"]["slowness"] if "3d" in row else None]
    save(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure only encoders whose name contains this")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes, rounds = (SMOKE, 1) if options.smoke else (SIZES, options.rounds)
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"encoders": {}}
    if options.table:
        print(table(earlier))
        return
    chosen = [name for name in ENCODERS if options.only in name]
    rows = {} if options.smoke else earlier["encoders"]
    results = {
        "machine": machine(),
        "threads": options.threads,
        "torch": torch.__version__,
        "commit": commit(),
        "sizes": ", ".join(f"{size.batch} x {'x'.join(map(str, size.patch))}" for size in sizes.values()),
    }
    for name in chosen:
        kinds = [kind for kind in sizes if kind == "2d" or entry(name).volumes]
        rows[name] = {kind: measure(name, kind, sizes[kind], rounds) for kind in kinds}
        results["encoders"] = {name: rows[name] for name in ENCODERS if name in rows}
        print(json.dumps({name: rows[name]}), flush=True)
        if not options.smoke:
            write_text(RESULTS, json.dumps(results, indent=1) + "\n")
            update_catalogue(results)
    print(table(results))


if __name__ == "__main__":
    main()
