"""Measure how fast each encoder is on this machine: a training step, frozen and fine-tuned, and inference.

    python tools/encoder_speed.py                 measure every encoder; write bench/results/encoder_speed.csv and
                                                  ``slowness`` in seg_transfer/catalogue/encoders.json
    python tools/encoder_speed.py --only regnety  measure these, keep the other results
    python tools/encoder_speed.py --table         print the results, measure nothing
    python tools/encoder_speed.py --smoke         smallest sizes, one round; write nothing

The network is the planner's U-Net over the stages down to stride 16, without positions: random weights, one channel,
three classes, the faster precision of this machine, and the faster gradients of depthwise convolutions. Steps are those
of ``segtl train`` with the augmentation of the golden hippocampus plan. ``slowness`` is of the encoder alone: seconds
of a forward and backward pass per operation that the catalogue counts, over ResNet-18's, as the median of pairs
measured in turns.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from encoder_table import ROOT, TABLE, save
from make_golden import plan_path

from seg_transfer.catalogue.encoders import ENCODERS, entry
from seg_transfer.network.depthwise import depthwise_gain
from seg_transfer.options.choices import Precision
from seg_transfer.planning.cost import SMALLEST_GAIN, NetworkSize
from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import Plan, Weights
from seg_transfer.planning.rules.decoder import decoder_channels
from seg_transfer.planning.rules.strategy import STRATEGIES
from seg_transfer.training.batches import Batch
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import bfloat16_gain, machine_text
from seg_transfer.util.files import whole_file

RESULTS = ROOT / "bench" / "results" / "encoder_speed.csv"
FIGURES = ("frozen_ms", "finetune_ms", "inference_ms", "slowness")
COLUMNS = ("encoder", "kind", *FIGURES, "batch", "patch", "precision", "machine", "threads", "torch", "commit")
DEEPEST_STRIDE = 16
REFERENCE = "resnet18"
CLASSES = 3

Row = dict[str, str]
"""A row of the results by column."""


@dataclass(frozen=True)
class Size:
    """Samples in a batch, and their patch."""

    batch: int
    patch: Triple


SIZES = {"2d": Size(8, (1, 128, 128)), "3d": Size(2, (24, 64, 64))}
SMOKE = {"2d": Size(2, (1, 32, 32)), "3d": Size(2, (4, 32, 32))}


def network_size(name: str, configuration: str, size: Size) -> NetworkSize:
    """The network of an encoder; in 3D it strides along the slices at its first two stages."""
    known = entry(name)
    strides = [stride for stride in known.strides if stride <= DEEPEST_STRIDE]
    return NetworkSize(
        entry=known,
        configuration=configuration,
        patch=size.patch,
        stages=len(strides),
        slice_strides=(2, 2, 1, 1)[: len(strides)] if configuration == "3d" else (),
        decoder_channels=decoder_channels(strides, "cpu")[0],
        channels=1,
        classes=CLASSES,
    )


@cache
def golden_plan() -> Plan:
    """The plan whose recipe is trained with: one channel, three classes."""
    return Plan.load(plan_path("hippocampus"))


@cache
def precision() -> Precision:
    """As a plan on this machine has it."""
    return "bfloat16" if bfloat16_gain("cpu") > SMALLEST_GAIN else "float32"


def reduced() -> torch.autocast:
    """Autocast of that precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bfloat16")


def trainer(made: NetworkSize, strategy: Literal["frozen", "finetune", "scratch"]) -> Trainer:
    """A trainer of the network; its weights are random, and BatchNorm is treated as where they are pretrained."""
    plan = golden_plan()
    model = {
        "configuration": made.configuration,
        "patch": made.patch,
        "encoder": made.entry.name,
        "weights": Weights(source="none"),
        "stages": made.stages,
        "slice_strides": made.slice_strides,
        "decoder_channels": made.decoder_channels,
        "position": False,
    }
    network = plan.model.model_copy(update=model)
    learning = STRATEGIES[strategy](network)
    if strategy != "scratch":
        learning = learning.model_copy(update={"batchnorm": "recalibrated"})
    recipe = plan.recipe.model_copy(update={"strategy": learning, "precision": precision()})
    if made.entry.depthwise:
        dimensions: Literal[2, 3] = 3 if made.configuration == "3d" else 2
        fast = depthwise_gain(dimensions, precision()) > SMALLEST_GAIN
        recipe = recipe.model_copy(update={"depthwise_gradients": "fast" if fast else "torch"})
    changed = {"model": network, "recipe": recipe}
    return Trainer(plan.model_copy(update=changed), seed=0, device="cpu", load=True)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def encoder_pass(name: str, configuration: str, size: Size) -> tuple[Callable[[], None], float]:
    """A forward and backward pass of the encoder alone in training, and its forward operations."""
    made = network_size(name, configuration, size)
    encoder = trainer(made, "scratch").network.encoder.train()
    image = torch.randn(size.batch, 1, *size.patch).clone(memory_format=torch.channels_last_3d)

    def work() -> None:
        with reduced():
            stages = encoder(image)
        sum(stage.float().mean() for stage in stages).backward()

    flops = sum(made.entry.costs[kind].flops[stage] * entering for stage, kind, entering in made.per_stage())
    return work, flops * size.batch * made.voxels


def slowness(name: str, configuration: str, size: Size, rounds: int) -> float:
    """Seconds per operation over ResNet-18's."""
    if name == REFERENCE:
        return 1.0
    mine, flops = encoder_pass(name, configuration, size)
    theirs, reference_flops = encoder_pass(REFERENCE, configuration, size)
    ratios = [seconds(mine) / seconds(theirs) for _ in range(rounds + 1)][1:]
    return statistics.median(ratios) / (flops / reference_flops)


def measure(name: str, configuration: str, size: Size, rounds: int) -> dict[str, float]:
    """Milliseconds per sample of each kind of step, and the slowness."""
    made = network_size(name, configuration, size)
    slices = size.patch[0]
    batch = Batch(
        torch.randn(size.batch, 1, *size.patch), torch.randint(0, CLASSES, (size.batch, slices, *size.patch[1:]))
    )
    learning = {strategy: trainer(made, strategy) for strategy in ("frozen", "finetune")}
    network = learning["finetune"].averaged.network

    def infer() -> None:
        with torch.inference_mode(), reduced():
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


def read_rows() -> dict[tuple[str, str], Row]:
    """The results so far: encoder and kind -> row."""
    if not RESULTS.is_file():
        return {}
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {(row["encoder"], row["kind"]): row for row in csv.DictReader(file)}


def write_rows(rows: dict[tuple[str, str], Row]) -> None:
    """Replace the results, in the order of the catalogue."""
    with whole_file(RESULTS) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name, kind] for name in ENCODERS for kind in SIZES if (name, kind) in rows)


def table(rows: dict[tuple[str, str], Row]) -> str:
    """Milliseconds per sample as Markdown; a table for each machine and precision."""
    titles = [f"{kind} {name.removesuffix('_ms')}" for kind in SIZES for name in FIGURES]
    places: dict[tuple[str, ...], dict[tuple[str, str], Row]] = defaultdict(dict)
    for key, row in rows.items():
        places[tuple(row[name] for name in ("machine", "threads", "torch", "precision"))][key] = row
    lines = []
    for (machine, threads, torch_version, precise), here in places.items():
        sizes = dict.fromkeys(f"{row['batch']} x {row['patch']}" for row in here.values())
        commits = dict.fromkeys(row["commit"] for row in here.values())
        lines += [
            f"{machine}, {threads} threads, torch {torch_version}, {precise}, {', '.join(commits)}; "
            f"ms per sample, batches of {', '.join(sizes)}",
            "",
            f"| encoder | {' | '.join(titles)} |",
            "|---" * (1 + len(titles)) + "|",
        ]
        for encoder in dict.fromkeys(name for name, _ in here):
            found = [here.get((encoder, kind)) for kind in SIZES]
            cells = [f"{float(row[name]):g}" if row else "–" for row in found for name in FIGURES]
            lines.append(f"| {encoder} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def update_catalogue(rows: dict[tuple[str, str], Row]) -> None:
    encoders = json.loads(TABLE.read_text(encoding="utf-8"))["encoders"]
    for (name, kind), row in rows.items():
        encoders[name]["slowness"][list(SIZES).index(kind)] = float(row["slowness"])
    save(encoders)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="measure only encoders whose name contains this")
    parser.add_argument("--table", action="store_true", help="print the results, measure nothing")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, one round; write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes, rounds = (SMOKE, 1) if options.smoke else (SIZES, options.rounds)
    rows = {} if options.smoke else read_rows()
    if options.table:
        print(table(rows))
        return
    describe = ["git", "describe", "--always", "--dirty"]
    about = {
        "precision": precision(),
        "machine": machine_text(),
        "threads": str(options.threads),
        "torch": torch.__version__,
        "commit": subprocess.check_output(describe, cwd=ROOT, text=True).strip(),
    }
    for name in (name for name in ENCODERS if options.only in name):
        for kind, size in sizes.items():
            if kind == "2d" or entry(name).volumes:
                figures = {key: str(value) for key, value in measure(name, kind, size, rounds).items()}
                where = {"batch": str(size.batch), "patch": "x".join(map(str, size.patch))}
                rows[name, kind] = {"encoder": name, "kind": kind, **figures, **where, **about}
                print(", ".join(f"{key} {value}" for key, value in rows[name, kind].items()), flush=True)
        if not options.smoke:
            write_rows(rows)
            update_catalogue(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
