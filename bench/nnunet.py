"""nnU-Net (version 2) on given cases for a given training time, through its command line and in its own environment.

nnU-Net has no time budget: its learning rate falls over a fixed number of epochs. So the seconds of an iteration are
measured first, in a short training that is thrown away, and the number of iterations is what then fills the time. They
are spread over ``EPOCHS`` epochs, since the rate falls once per epoch. As with segtl's time budget only training steps
count, not validation, saving and drawing. Everything else is nnU-Net's default, and all training cases are trained on
(fold ``all``).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import HERE, link_cases

from seg_transfer.util.environment import cores

NAME = "Dataset001_curve"
TRAINER = "CountedTrainer"
EPOCHS = 50
FEWEST = 3
SPANS = ("planning_seconds", "calibration_seconds", "training_wall_seconds", "prediction_seconds")
COLUMNS = ("nnunet", "epochs", "calibrated_step_seconds", "median_step_seconds", *SPANS)
"""Columns that only a run of nnU-Net has."""
CALIBRATION = 0.1
"""The measured epoch takes at least this share of the budget."""


@dataclass(frozen=True)
class NNUNet:
    """An installed nnU-Net, the folder in which it works, and the device: ``cpu`` or ``cuda``."""

    venv: Path
    folder: Path
    configuration: str
    device: str = "cpu"

    def plan(self, dataset: Path, cases: list[str]) -> dict[str, Any]:
        """Describe the cases to nnU-Net, let it plan and preprocess; its plan of the configuration."""
        raw = self.folder / "raw" / NAME
        for folder in link_cases(dataset, cases, raw):
            folder.rename(raw / f"{folder.name}Tr")
        described = json.loads((dataset / "dataset.json").read_text())
        (raw / "dataset.json").write_text(json.dumps({**described, "numTraining": len(cases)}))
        processes = str(cores())
        self.call("plan_and_preprocess", "-d", "1", "-c", self.configuration, "-npfp", processes, "-np", processes)
        plans = json.loads((self.folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
        return plans["configurations"][self.configuration]

    def train(self, epochs: int, iterations: int) -> list[float]:
        """Train from scratch; the seconds of every epoch's steps."""
        written = self.folder / "seconds.json"
        written.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "results", ignore_errors=True)
        counts = {"CURVE_EPOCHS": str(epochs), "CURVE_ITERATIONS": str(iterations), "CURVE_SECONDS": str(written)}
        self.call("train", "1", self.configuration, "all", "-tr", TRAINER, "-device", self.device, **counts)
        return json.loads(written.read_text())

    def predict(self, images: Path, predictions: Path) -> None:
        """Predict the cases of a folder with the model trained last."""
        options = ["-d", "1", "-c", self.configuration, "-tr", TRAINER, "-f", "all", "-device", self.device]
        self.call("predict", "-i", str(images), "-o", str(predictions), *options, "-npp", "1", "-nps", "1")

    def version(self) -> str:
        """Of nnU-Net."""
        code = "from importlib.metadata import version; print(version('nnunetv2'))"
        return subprocess.check_output([self.venv / "bin" / "python", "-c", code], text=True).strip()

    def call(self, command: str, *options: str, **variables: str) -> None:
        """Run one of nnU-Net's commands; what it says goes to ``nnunet.log``.

        Raises:
            RuntimeError: If it fails; with the end of what it said.
        """
        places = {f"nnUNet_{name}": str(self.folder / name) for name in ("raw", "preprocessed", "results")}
        environment = {
            **os.environ,
            **places,
            "nnUNet_extTrainer": str(HERE / "nnunet_trainer"),
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": "1",
            "CURVE_THREADS": str(cores()),
            **variables,
        }
        environment.pop("PYTHONPATH", None)
        log = self.folder / "nnunet.log"
        with log.open("a") as said:
            done = subprocess.run(
                [self.venv / "bin" / f"nnUNetv2_{command}", *options], env=environment, stdout=said, stderr=said
            )
        if done.returncode:
            raise RuntimeError(f"nnUNetv2_{command} failed ({log}):\n{log.read_text()[-2000:]}")


def spread(iterations: int) -> tuple[int, int]:
    """Epochs, at most ``EPOCHS``, and iterations of each, together as many as wanted but for rounding."""
    each = math.ceil(iterations / EPOCHS)
    return max(1, round(iterations / each)), each


def calibrate(nnunet: NNUNet, seconds: float) -> float:
    """Seconds of an iteration in a training of so many seconds.

    The second of two epochs is measured, since the first one starts slowly; as long as it is over too soon to be told
    from chance, again with more iterations.
    """
    iterations = FEWEST
    while True:
        measured = nnunet.train(2, iterations)[-1]
        if measured >= CALIBRATION * seconds:
            return measured / iterations
        iterations = math.ceil(1.2 * iterations * CALIBRATION * seconds / measured)


def run_nnunet(nnunet: NNUNet, dataset: Path, cases: list[str], images: Path, seconds: float) -> dict[str, Any]:
    """Plan, calibrate, train on ``cases`` and predict the ``images`` into ``predictions`` of its folder.

    Returns:
        Columns of its row in the results.
    """
    times = [time.perf_counter()]
    planned = nnunet.plan(dataset, cases)
    times.append(time.perf_counter())
    calibrated = calibrate(nnunet, seconds)
    times.append(time.perf_counter())
    epochs, each = spread(max(1, round(seconds / calibrated)))
    trained = nnunet.train(epochs, each)
    times.append(time.perf_counter())
    nnunet.predict(images, nnunet.folder / "predictions")
    times.append(time.perf_counter())
    spans = [round(end - start, 1) for start, end in itertools.pairwise(times)]
    return {
        "nnunet": nnunet.version(),
        "configuration": nnunet.configuration,
        "patch": "x".join(map(str, planned["patch_size"])),
        "stages": planned["architecture"]["arch_kwargs"]["n_stages"],
        "batch_size": planned["batch_size"],
        "epochs": epochs,
        "steps": epochs * each,
        "training_seconds": round(sum(trained), 1),
        "calibrated_step_seconds": round(calibrated, 3),
        "median_step_seconds": round(statistics.median(trained) / each, 3),
        **dict(zip(SPANS, spans, strict=True)),
    }
