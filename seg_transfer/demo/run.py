"""The demo: plan, train, predict and evaluate on made-up data, with thresholds on intensity run beside it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import seg_transfer as api
from seg_transfer.data.dataset import Case, find_images
from seg_transfer.data.image import read_image, read_label, to_native, write_volume
from seg_transfer.demo.baseline import Thresholds
from seg_transfer.demo.phantom import LABELS
from seg_transfer.demo.phantom_dataset import make_dataset
from seg_transfer.errors import SomeCasesFailed
from seg_transfer.evaluation.overlay import CaseFiles, save_overlay
from seg_transfer.evaluation.scores import Scores

logger = logging.getLogger(__name__)

TRAINING_SECONDS = 150.0
"""Leaves half of the promised 5 minutes on 2 cores for all the rest."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found on its held-out cases, and where it lies.

    Attributes:
        data: The data set, in nnU-Net layout.
        work: The work folder.
        predictions: Predicted label maps of the held-out cases.
        overlay: Picture of the best, the median and the worst held-out case.
        scores: Of the trained network.
        baseline: Of thresholds on intensity.
        seconds: How long all of it took.
    """

    data: Path
    work: Path
    predictions: Path
    overlay: Path
    scores: Scores
    baseline: Scores
    seconds: float


def run_demo(
    folder: Path, *, seed: int = 0, device: str = "auto", workers: int = 0, training_seconds: float = TRAINING_SECONDS
) -> DemoResult:
    """Make data, plan, train on all training cases, predict the held-out ones and score them.

    Interrupted, it goes on where it stopped when called again.

    Args:
        folder: Where everything goes; made if need be.
        seed: Of the data and of the training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Processes; 0 works in this one.
        training_seconds: Budget of training time.

    Raises:
        SomeCasesFailed: If a held-out case could not be predicted or scored.
        UserError: If the folder holds a demo of another seed.
    """
    start = time.monotonic()
    data, work, predictions = make_dataset(folder / "data", seed=seed), folder / "work", folder / "predictions"
    logger.info(f"data set: {data}")
    truth = data / "labelsTs"
    made = api.plan(data, work=work, time_budget=training_seconds, device=device, workers=workers, seed=seed)
    api.train("full", work=work, device=device, workers=workers)
    api.predict(data / "imagesTs", predictions, work=work, folds=["full"], overwrite=True, device=device)
    scores = api.evaluate(predictions, truth, work=work, workers=workers)
    held_out = find_images(data / "imagesTs", channels=len(made.data.channels))
    thresholds = _threshold(data, held_out, folder / "baseline")
    baseline = api.evaluate(thresholds, truth, work=work, workers=workers)
    failures = scores.failures | baseline.failures
    if failures:
        raise SomeCasesFailed(failures)
    overlay = _draw(folder / "overlay.png", scores, held_out, predictions, truth)
    return DemoResult(data, work, predictions, overlay, scores, baseline, time.monotonic() - start)


def _threshold(data: Path, held_out: list[Case], output: Path) -> Path:
    """Fit thresholds on the training cases and write the held-out cases' label maps."""
    training = find_images(data / "imagesTr", channels=1)
    fitted = Thresholds.fit(
        ((read_image(case.images).array[0], read_label(_label(data / "labelsTr", case)).array[0]) for case in training),
        LABELS.values(),
    )
    for case in held_out:
        image = read_image(case.images)
        write_volume(_label(output, case), to_native(fitted.apply(image.array[0]), image.native), image.native)
    return output


def _draw(path: Path, scores: Scores, held_out: list[Case], predictions: Path, truth: Path) -> Path:
    files = {
        case.id: CaseFiles(case.images, reference=_label(truth, case), prediction=_label(predictions, case))
        for case in held_out
    }
    save_overlay(path, scores, files)
    return path


def _label(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.nii.gz"
