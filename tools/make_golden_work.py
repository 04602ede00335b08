"""Make ``tests/golden/work``: a small data set, a work folder with trained runs and an exported model, as this
version writes them.

    python tools/make_golden_work.py

Tests load it, predict with it, resume it and summarise it, so that later versions keep reading what this one wrote. Run
it again only for a version that refuses older work folders, and say so in the changelog. Fold 0 is trained and
validated; fold 1 is interrupted. The network has one encoder stage and random weights, so that it stays small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import nibabel
import numpy as np

import seg_transfer
from seg_transfer.data.dataset import Dataset
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.util.files import write_text
from seg_transfer.workflow.work_folder import WorkFolder

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "work"
LABELS = {"background": 0, "ball": 1}
CASES, SHAPE = 4, (20, 18, 6)
EPOCHS, STEPS = 12, 5


def make_dataset(folder: Path) -> None:
    """Write bright balls in noise, in nnU-Net's layout."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in range(CASES):
        generator = np.random.default_rng(case)
        centre = np.array(SHAPE) / 2 + generator.uniform(-3, 3, 3) * (1, 1, 0.3)
        distance = np.linalg.norm((np.indices(SHAPE).T - centre) * (1, 1, 2), axis=-1).T
        ball = distance < 5
        image = 100 * ball + generator.integers(0, 40, SHAPE)
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.uint8), affine), folder / f"imagesTr/case_{case}_0000.nii.gz")
        nibabel.save(nibabel.Nifti1Image(ball.astype(np.uint8), affine), folder / f"labelsTr/case_{case}.nii.gz")
    description = {"channel_names": {"0": "MRI"}, "labels": LABELS, "numTraining": CASES, "file_ending": ".nii.gz"}
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")


def shrink(work: WorkFolder) -> None:
    """Plan a network of one stage and a few steps."""
    plan = work.load_plan()
    strategy = plan.recipe.strategy
    model = plan.model.model_copy(update={"stages": 1, "patch": (1, 16, 16), "decoder_channels": (4,)})
    short = {"start": strategy.start[:1], "rate": strategy.rate[:1]}
    recipe = plan.recipe.model_copy(
        update={
            "strategy": strategy.model_copy(update=short),
            "batch_size": 4,
            "epochs": EPOCHS,
            "steps_per_epoch": STEPS,
            "precision": "float32",
            "deep_supervision": False,
        }
    )
    plan.model_copy(update={"model": model, "recipe": recipe, "reasons": (), "expected": None}).save(work.plan)


def interrupt_after_an_epoch(run: RunFolder) -> None:
    """Send this process the signal of Ctrl-C once a run has written its first row."""
    while not run.log.is_file():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Make the folder anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir(parents=True)
    os.chdir(GOLDEN)
    make_dataset(Path("data"))
    local = {"work": "trained", "workers": 0, "device": "cpu"}
    seg_transfer.plan("data", config="2d", encoder="resnet18", weights="none", epochs=EPOCHS, folds=2, **local)
    work = WorkFolder(Path("trained"))
    shrink(work)
    seg_transfer.train(0, **local)
    run = work.plan_folder(work.load_plan()).run(1)
    threading.Thread(target=interrupt_after_an_epoch, args=(run,)).start()
    with contextlib.suppress(KeyboardInterrupt):
        seg_transfer.train(1, **local)
    seg_transfer.summary(work=work.path, workers=0)
    seg_transfer.export("model.segtl", work=work.path, name="golden")
    described = Dataset.load(work.dataset).model_dump_json().replace(f"{GOLDEN}/", "")  # tests work in a copy
    Dataset.model_validate_json(described).save(work.dataset)
    for unneeded in [*work.runs.rglob("tensorboard"), *work.runs.rglob("*.png"), work.path / "fingerprint.stamp"]:
        shutil.rmtree(unneeded) if unneeded.is_dir() else unneeded.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
