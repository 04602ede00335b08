"""Checks and measures the cases of a data set; each file is read once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from seg_transfer.data.checks import Problem, all_problems, read_checked
from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.case_fingerprint import CaseFingerprint, measure_case, pooled_intensity
from seg_transfer.planning.distribution import Sketch
from seg_transfer.planning.fingerprint import Fingerprint, pool
from seg_transfer.util.parallel import CaseFailure, map_cases

logger = logging.getLogger(__name__)

_Measured = tuple[CaseFingerprint, list[Sketch | None]]
"""A case's measurements, and per channel the intensities of its foreground."""


@dataclass(frozen=True)
class Examination:
    """A data set whose cases were checked and measured.

    Attributes:
        dataset: With the cases that have no problem.
        problems: Of all other cases and of unused files, sorted by case and file.
    """

    dataset: Dataset
    problems: list[Problem]
    _measured: dict[str, _Measured]

    def fingerprint(self) -> Fingerprint:
        """The measurements of the cases that have no problem.

        Raises:
            UserError: If there is none.
        """
        if not self.dataset.cases:
            raise UserError("every case has problems", where=self.dataset.root, hint="fix them as described above")
        measured = [self._measured[case.id] for case in self.dataset.cases]
        intensities = [
            pooled_intensity([sketch for _, sketches in measured if (sketch := sketches[channel]) is not None])
            for channel in range(len(self.dataset.channel_names))
        ]
        return pool(self.dataset, [case for case, _ in measured], intensities)


def examine(dataset: Dataset, *, workers: int) -> Examination:
    """Check and measure every labelled case of a data set; see :func:`~seg_transfer.data.checks.read_checked`.

    Args:
        dataset: The data set; cases without a label are left out.
        workers: Processes, each with one case in memory; 0: in this process.

    Raises:
        UserError: If there is no labelled case.
    """
    cases = [case for case in dataset.cases if case.label is not None]
    if not cases:
        raise UserError("no case has a label", where=dataset.root, hint="give at least one labelled case")
    problems: list[Problem] = []
    empty: list[str] = []
    measured: dict[str, _Measured] = {}
    function = partial(_examine_case, dataset=dataset.select([]))
    for case, result in map_cases(function, cases, workers=workers, title="measuring", name=lambda case: case.id):
        if isinstance(result, CaseFailure):
            problems.append(Problem(case.id, case.images[0], result.cause, "see whether the file opens elsewhere"))
            continue
        of_case, background_only, found = result
        problems += of_case
        empty += [case.id] if background_only else []
        if found is not None:
            measured[case.id] = found
    if empty:
        logger.info(f"{len(empty)} of {len(cases)} labels hold background only: {', '.join(sorted(empty))}")
    problems = all_problems(dataset, problems)
    broken = {problem.case for problem in problems}
    valid = dataset.select([case.id for case in cases if case.id not in broken])
    return Examination(valid, problems, measured)


def _examine_case(case: Case, *, dataset: Dataset) -> tuple[list[Problem], bool, _Measured | None]:
    """Problems of a case, whether its label holds background only, and its measurements if it has no problem."""
    checked = read_checked(case, dataset)
    measured = None if checked.problems else measure_case(checked, labels=len(dataset.labels))
    return checked.problems, checked.background_only, measured
