"""The demo: plan, train, predict and evaluate on synthetic data, compared with thresholds on intensity."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import seg_transfer as api
from seg_transfer.data.dataset import Case, find_images
from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import to_native
from seg_transfer.data.image import read_image, read_label
from seg_transfer.demo.baseline import Thresholds
from seg_transfer.demo.phantom import LABELS
from seg_transfer.demo.phantom_dataset import make_dataset
from seg_transfer.errors import SomeCasesFailed
from seg_transfer.evaluation.overlay import CaseFiles, save_overlay
from seg_transfer.evaluation.scores import Scores
from seg_transfer.options.other_options import DemoOptions

logger = logging.getLogger(__name__)

TRAINING_SECONDS = 150.0
"""Half of the 5 minutes that the demo may take on 2 cores."""


@dataclass(frozen=True)
class DemoResult:
    """Files of the demo and scores of its held-out cases.

    Attributes:
        data: The data set, in nnU-Net layout.
        work: The work folder.
        predictions: Folder of the predicted label maps of the held-out cases.
        overlay: PNG file of the best, the median and the worst held-out case.
        scores: Scores of the trained network.
        baseline: Scores of thresholds on intensity.
        seconds: Duration of the demo.
    """

    data: Path
    work: Path
    predictions: Path
    overlay: Path
    scores: Scores
    baseline: Scores
    seconds: float


def demo(options: DemoOptions) -> DemoResult:
    """Run :func:`run_demo` with the options of the command."""
    return run_demo(options.output, seed=options.seed, device=options.device)


def run_demo(
    folder: Path, *, seed: int = 0, device: str = "auto", workers: int = 0, training_seconds: float = TRAINING_SECONDS
) -> DemoResult:
    """Make data, plan, train on all training cases, predict the held-out cases and score them.

    An interrupted demo resumes when called again.

    Args:
        folder: Folder of all files; created if missing.
        seed: Random seed of the data and of the training.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Number of processes; 0 uses this process.
        training_seconds: Budget of training time.

    Raises:
        SomeCasesFailed: If a held-out case could not be predicted or scored.
        UserError: If the folder has a demo of another seed.
    """
    start = time.monotonic()
    data, work, predictions = make_dataset(folder / "data", seed=seed), folder / "work", folder / "predictions"
    logger.info(f"data set: {data}")
    reference = data / "labelsTs"
    plan = api.plan(data, work=work, time_budget=training_seconds, device=device, workers=workers, seed=seed)
    api.train("full", work=work, device=device, workers=workers)
    api.predict(data / "imagesTs", predictions, work=work, folds=["full"], overwrite=True, device=device)
    scores = api.evaluate(predictions, reference, work=work, workers=workers)
    held_out = find_images(data / "imagesTs", channels=len(plan.data.channels))
    _threshold(data, held_out, folder / "baseline")
    baseline = api.evaluate(folder / "baseline", reference, work=work, workers=workers)
    failures = scores.failures | baseline.failures
    if failures:
        raise SomeCasesFailed(failures, of=len(held_out))
    overlay = folder / "overlay.png"
    files = {
        case.id: CaseFiles(case.images, reference=_label(reference, case), prediction=_label(predictions, case))
        for case in held_out
    }
    save_overlay(overlay, scores, files)
    return DemoResult(data, work, predictions, overlay, scores, baseline, time.monotonic() - start)


def _threshold(data: Path, held_out: list[Case], output: Path) -> None:
    """Fit thresholds on the training cases and write label maps of the held-out cases."""
    training = find_images(data / "imagesTr", channels=1)
    thresholds = Thresholds.fit(
        ((read_image(case.images).array[0], read_label(_label(data / "labelsTr", case)).array[0]) for case in training),
        LABELS.values(),
    )
    for case in held_out:
        image = read_image(case.images)
        write_volume(_label(output, case), to_native(thresholds.apply(image.array[0]), image.native), image.native)


def _label(folder: Path, case: Case) -> Path:
    return folder / f"{case.id}.nii.gz"
