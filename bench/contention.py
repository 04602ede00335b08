"""What it costs to share the machine: a training step alone and beside a busy process, by OpenMP's wait policy.

Each figure is the median of one process's steps on two threads; the neighbour spins on one core.

    python bench/contention.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

NEIGHBOUR = "while True: pass"


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


def measure(policy: str, rounds: int) -> str:
    command = [sys.executable, __file__, "--steps", "--rounds", str(rounds)]
    done = subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": policy}, capture_output=True, text=True)
    return done.stdout.split()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps:
        steps(options.rounds)
        return
    print("| wait policy | alone, s a step | beside a busy process, s a step |")
    print("|---|---|---|")
    for policy in ("ACTIVE", "PASSIVE"):
        alone = measure(policy, options.rounds)
        neighbour = subprocess.Popen([sys.executable, "-c", NEIGHBOUR])
        try:
            shared = measure(policy, options.rounds)
        finally:
            neighbour.kill()
        print(f"| {policy} | {alone} | {shared} |", flush=True)


if __name__ == "__main__":
    main()
