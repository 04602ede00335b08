"""From label maps and their references to scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from seg_transfer.util import environment
from seg_transfer.util.files import check_folder
from seg_transfer.workflow.work_folder import Work

if TYPE_CHECKING:
    from seg_transfer.evaluation.scores import Scores


def evaluate(
    predictions: Path | str,
    reference: Path | str,
    *,
    work: Path | str | None = None,
    ignore: int | None = None,
    tolerance: float = 1.0,
    json: Path | str | None = None,
    csv: Path | str | None = None,
    workers: int | None = None,
) -> Scores:
    """Score label maps against reference label maps of the same names.

    Args:
        predictions: Folder of label maps, or one file.
        reference: Folder of reference label maps, or one file.
        work: Work folder whose plan names labels or regions, and says which voxels are not annotated and do not count;
            None takes every value that occurs, by number.
        ignore: Value in the references of voxels that are not annotated and do not count; None takes the plan's.
        tolerance: Surface distance that NSD counts as met, in mm (pictures: pixels).
        json: File to write the scores into; :meth:`seg_transfer.evaluation.scores.Scores.load` reads it.
        csv: File to write a row per case and label into.
        workers: Processes; 0 works in this one, None takes as many as the machine bears.

    Returns:
        The scores per case and label, and their summary; cases that could not be scored are in ``failures``.

    Raises:
        UserError: If a folder is missing, or no name occurs in both.
    """
    for file in (json, csv):
        if file is not None:
            check_folder(Path(file).parent)
    data = None if work is None else Work(Path(work)).load_plan().data
    environment.check_torch()
    from seg_transfer.evaluation.report import save_csv
    from seg_transfer.evaluation.score_files import evaluate_folders

    scores = evaluate_folders(
        Path(predictions),
        Path(reference),
        labels=None if data is None else data.scored,
        ignore=data.ignore if ignore is None and data is not None else ignore,
        tolerance=tolerance,
        workers=environment.case_workers() if workers is None else workers,
    )
    if json is not None:
        scores.save(Path(json))
    if csv is not None:
        save_csv(scores, Path(csv))
    return scores
