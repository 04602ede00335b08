"""From label maps and their references to scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seg_transfer.options.calls import takes
from seg_transfer.options.common import STDOUT
from seg_transfer.options.other_options import EvaluateOptions
from seg_transfer.workflow.output_files import CSV, SCORES, check_output
from seg_transfer.workflow.work_folder import WorkFolder

if TYPE_CHECKING:
    from seg_transfer.evaluation.scores import Scores


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> Scores:
    """Score label maps against reference label maps of the same names, or of names that differ as in data sets.

    Labels or regions and the ignore label are those of the work folder's plan; without a work folder every value that
    occurs is scored, by number.

    Returns:
        The scores per case and label, and their means; cases that could not be scored are in ``failures``.

    Raises:
        UserError: If a folder is missing, or no name occurs in both.
    """
    for file, kind in ((options.json_file, SCORES), (options.csv_file, CSV)):
        if file is not None and file != STDOUT:
            check_output(file, kind)
    data = None if options.work is None else WorkFolder(options.work).load_plan().data
    from seg_transfer.evaluation.report import save_csv
    from seg_transfer.evaluation.score_files import evaluate_folders

    scores = evaluate_folders(
        options.predictions,
        options.reference,
        labels=None if data is None else data.scored,
        names=None if data is None else data.names,
        ignore=data.ignore if options.ignore is None and data is not None else options.ignore,
        tolerance=options.tolerance,
        only_predicted=options.only_predicted,
        instances=data is not None and data.instances,
        workers=options.workers,
    )
    if options.json_file not in (None, STDOUT):
        scores.save(options.json_file)
    if options.csv_file is not None:
        save_csv(scores, options.csv_file)
    return scores
