"""What it costs to share the machine: a training step alone and beside others, by how OpenMP's threads wait.

Each figure is the median of one process's steps on two threads. The neighbours are a process that spins on one core,
and another training on two threads with torch's own default.

    python bench/contention.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

POLICIES = {
    "torch's default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 3,000": {"GOMP_SPINCOUNT": "3000"},
    "spin 30,000": {"GOMP_SPINCOUNT": "30000"},
}
FOREVER = 10**6
NEIGHBOURS = {
    "alone": None,
    "beside a busy process": [sys.executable, "-c", "while True: pass"],
    "beside another training": [sys.executable, __file__, "--steps", "--rounds", str(FOREVER)],
}


def steps(rounds: int) -> None:
    """In a process of its own: train on random data, print the median of the seconds per step."""
    import torch
    from steps import SHAPES, make_plan

    from seg_transfer.training.batches import Batch
    from seg_transfer.training.trainer import Trainer

    torch.set_num_threads(2)
    trainer = Trainer(make_plan("3d", "finetune", "bfloat16"), seed=0, device="cpu", load=True)
    size, patch = SHAPES["3d"]
    batch = Batch(torch.randn(size, 1, *patch), torch.randint(0, 3, (size, *patch)))
    trainer.step(batch, 0, 0.1)
    taken = []
    for step in range(rounds):
        start = time.perf_counter()
        trainer.step(batch, step + 1, 0.5)
        taken.append(time.perf_counter() - start)
    print(f"median {statistics.median(taken):.3f}")


def measure(policy: dict[str, str], neighbour: list[str] | None, rounds: int) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, __file__, "--steps", "--rounds", str(rounds)]
    beside = subprocess.Popen(neighbour, env=clean) if neighbour else None
    try:
        done = subprocess.run(command, env=clean | policy, capture_output=True, text=True, check=True)
    finally:
        if beside is not None:
            beside.kill()
    return done.stdout.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        steps(options.rounds)
        return
    print(f"| threads wait | {' | '.join(f'{name}, s a step' for name in NEIGHBOURS)} |")
    print("|---" * (1 + len(NEIGHBOURS)) + "|")
    for name, policy in POLICIES.items():
        figures = [measure(policy, neighbour, options.rounds) for neighbour in NEIGHBOURS.values()]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
