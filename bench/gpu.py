"""Training and prediction on a GPU: steps per second, waiting for batches, utilisation, memory, cases per second.

Made volumes in the planner's own network and patch: of hippocampus's size, and CTs of 512 x 512 x 160 voxels with 5
labels. Written as one JSON with what the planner expected of seconds and memory beside what they were.

    python bench/gpu.py --out gpu.json
    python bench/gpu.py --out gpu.json --device cpu --steps 4 --only hippocampus       tries the script without a GPU

nnU-Net's seconds of a step and Dice after equal minutes on the same card: ``bench/curve.py --nnunet VENV``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from runner import HERE, commit, edit_plan
from vs_nnunet import CT_LABELS, CT_SHAPE, make_dataset

import seg_transfer
from seg_transfer.training.batches import ReadAhead
from seg_transfer.training.trainer import Trainer
from seg_transfer.util.environment import machine_text, resolve_device
from seg_transfer.util.files import write_text

DATA = {"hippocampus": (20, (36, 50, 35), 3), "ct": (2, CT_SHAPE, CT_LABELS)}
"""Data set -> cases, voxels ``(x, y, z)``, labels with the background."""
WARM_UP = 10
"""Steps that are not timed: kernels are chosen and memory is allocated in them."""
POLL = 0.1


@contextmanager
def timed(of: type, name: str, seconds: list[float]) -> Iterator[None]:
    """Add the seconds of every call of a method to a list."""
    original: Callable[..., Any] = getattr(of, name)

    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        result = original(*arguments, **named)
        seconds.append(time.perf_counter() - start)
        return result

    setattr(of, name, call)
    try:
        yield
    finally:
        setattr(of, name, original)


@contextmanager
def utilisation(device: str, shares: list[float]) -> Iterator[None]:
    """Add the driver's figure, ten times a second, to a list: the share of time in which a kernel ran."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(POLL):
            shares.append(torch.cuda.utilization(device) / 100)

    watcher = threading.Thread(target=watch, daemon=True)
    if device.startswith("cuda"):
        watcher.start()
    try:
        yield
    finally:
        ended.set()
        if watcher.ident is not None:
            watcher.join()


def measure(name: str, folder: Path, device: str, steps: int) -> dict[str, Any]:
    """Plan, train some steps on every case, predict every case."""
    cases, shape, labels = DATA[name]
    dataset = make_dataset(folder / name / "data", cases, shape, labels)
    work = folder / name / "work"
    shutil.rmtree(work, ignore_errors=True)
    plan = seg_transfer.plan(dataset, work=work, device=device, epochs=1)
    edit_plan(work / "plan.json", {"recipe.steps_per_epoch": steps + WARM_UP})
    seg_transfer.preprocess(work=work)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    stepping: list[float] = []
    waiting: list[float] = []
    busy: list[float] = []
    with timed(Trainer, "step", stepping), timed(ReadAhead, "__call__", waiting), utilisation(device, busy):
        seg_transfer.train("full", work=work, device=device)
    trained = torch.cuda.max_memory_reserved(device) if device.startswith("cuda") else None
    computed, waited = sum(stepping[WARM_UP:]), sum(waiting[WARM_UP:])
    start = time.perf_counter()
    seg_transfer.predict(dataset / "imagesTr", work / "predictions", work=work, device=device)
    predicted = time.perf_counter() - start
    expected = plan.expected
    assert expected is not None
    return {
        "data": name,
        "configuration": plan.model.configuration,
        "encoder": plan.model.encoder,
        "patch": plan.model.patch,
        "batch_size": plan.recipe.batch_size,
        "precision": plan.recipe.precision,
        "steps": len(stepping) - WARM_UP,
        "steps_per_second": round((len(stepping) - WARM_UP) / (computed + waited), 3),
        "median_step_seconds": round(statistics.median(stepping[WARM_UP:]), 4),
        "expected_step_seconds": round(expected.seconds_per_step, 4),
        "waiting_share": round(waited / (computed + waited), 4),
        "utilisation": round(statistics.mean(busy), 3) if busy else None,
        "memory_bytes": trained,
        "expected_memory_bytes": expected.memory_bytes,
        "prediction_cases_per_second": round(cases / predicted, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--steps", type=int, default=200, help="timed training steps")
    parser.add_argument("--only", choices=list(DATA), nargs="+", default=list(DATA))
    parser.add_argument("--work", type=Path, default=HERE / "work", help="scratch folder")
    options = parser.parse_args()
    device = resolve_device(options.device)
    found = {
        "machine": machine_text(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "commit": commit(),
        "finished": "",
        "runs": [],
    }
    for name in options.only:
        found["runs"].append(measure(name, options.work / "gpu", device, options.steps))
        print(json.dumps(found["runs"][-1], indent=1), flush=True)
        found["finished"] = time.strftime("%Y-%m-%d %H:%M")
        write_text(options.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
