"""How fast are depthwise gradients, and what does a step of EfficientNet-Lite0 cost beside ResNet-18's?

Gains are of the gradients alone, as planning measures them. Steps are fine-tuning steps on random data in the precision
that a plan on this machine has; networks take turns, and ratios are medians of the paired ratios.

    python bench/depthwise.py [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Literal, get_args

import torch
from steps import SHAPES, in_turns, make_plan, paired_ratio, planned_precision, random_batch, with_gradients

from seg_transfer.network.depthwise import depthwise_gain
from seg_transfer.options.choices import Precision
from seg_transfer.planning.plan import Plan
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import machine_text

NETWORKS: dict[str, tuple[str, Literal["torch", "fast"]]] = {
    "ResNet-18": ("resnet18", "torch"),
    "Lite0, torch's gradients": ("tf_efficientnet_lite0", "torch"),
    "Lite0, fast gradients": ("tf_efficientnet_lite0", "fast"),
}


def plan_of(configuration: str, precision: Precision, encoder: str, gradients: Literal["torch", "fast"]) -> Plan:
    return with_gradients(make_plan(configuration, "finetune", precision, encoder), gradients)


def measure(configuration: str, precision: Precision, rounds: int) -> None:
    size = 2 if configuration == "3d" else 16
    trainers = {
        name: Trainer(plan_of(configuration, precision, *network), seed=0, device="cpu", load=True)
        for name, network in NETWORKS.items()
    }
    times = in_turns(trainers, random_batch(configuration, size), rounds)
    for name, taken in times.items():
        ratio = paired_ratio(taken, times["ResNet-18"])
        print(f"| {configuration} | {name} | {1000 * statistics.median(taken) / size:.1f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    precision = planned_precision()
    print(f"{machine_text()}, {options.threads} threads, torch {torch.__version__}\n")
    print("| gradients | times as fast as torch's |\n|---|---|")
    for dimensions in (2, 3):
        for each in get_args(Precision):
            print(f"| {dimensions}D {each} | {depthwise_gain(dimensions, each):.2g} |")
    print(f"\n| {precision} | network | ms a sample | over ResNet-18 |\n|---|---|---|---|")
    for configuration in SHAPES:
        measure(configuration, precision, options.rounds)


if __name__ == "__main__":
    main()
