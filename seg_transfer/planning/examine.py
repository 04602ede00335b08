"""Checks and measures the cases of a data set; each file is read once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial

from seg_transfer.data.checks import FormsApart, Problem, all_problems, read_checked
from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.case_fingerprint import CaseFingerprint, measure_case
from seg_transfer.planning.case_records import CaseRecords
from seg_transfer.planning.distribution import Sketch
from seg_transfer.planning.fingerprint import Fingerprint, pool
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.in_order import in_order
from seg_transfer.util.parallel import CaseFailure, map_cases

logger = logging.getLogger(__name__)

_Sketches = list[Sketch | None]
"""Per channel the intensities of the foreground of a case, or of several; None without foreground."""


@dataclass(frozen=True)
class Examination:
    """A data set whose cases were checked and measured.

    Attributes:
        dataset: With the cases that have no problem.
        cases: Their measurements.
        problems: Of all other cases and of unused files, sorted by case and file.
        foreground: Per channel the intensities of the foreground of all cases; None without foreground.
        apart: Of all files of the cases.
    """

    dataset: Dataset
    cases: CaseRecords
    problems: list[Problem]
    foreground: _Sketches
    apart: FormsApart

    @cached_property
    def site(self) -> SiteFingerprint:
        """Sum of the measurements of the cases that have no problem, of which there has to be one."""
        return SiteFingerprint.of(
            self.cases,
            dimension=self.dataset.dimension,
            unit=self.dataset.unit,
            channels=self.dataset.channel_names,
            labels=self.dataset.labels[1:],
            regions=self.dataset.regions,
            ignore=self.dataset.ignore,
            foreground=self.foreground,
        )

    def fingerprint(self) -> Fingerprint:
        """The measurements of the cases that have no problem.

        Raises:
            UserError: If there is none.
        """
        if not self.dataset.cases:
            raise UserError("every case has problems", where=self.dataset.root, hint="fix them as described above")
        return pool(self.dataset.name, self.site, self.cases)


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
    apart = FormsApart()
    records = CaseRecords()
    foreground: _Sketches = [None] * len(dataset.channel_names)
    unused = {problem.case for problem in all_problems(dataset, [])}
    function = partial(_examine_case, dataset=dataset.select([]))
    results = map_cases(function, cases, workers=workers, title="measuring", name=lambda case: case.id)
    for case, result in in_order(results, cases):  # rounding of the sums depends on the order
        if isinstance(result, CaseFailure):
            problems.append(Problem(case.id, case.images[0], result.cause, "see whether the file opens elsewhere"))
            continue
        of_case, background_only, apart_of_case, found = result
        apart.add(apart_of_case)
        problems += of_case
        empty += [case.id] if background_only else []
        if found is not None and case.id not in unused:
            measured, sketches = found
            records.append(measured)
            foreground = [_added(total, new) for total, new in zip(foreground, sketches, strict=True)]
    if empty:
        logger.info(f"{len(empty)} of {len(cases)} labels hold background only: {', '.join(sorted(empty))}")
    problems = all_problems(dataset, problems)
    broken = {problem.case for problem in problems}
    valid = dataset.select([case.id for case in cases if case.id not in broken])
    return Examination(valid, records, problems, foreground, apart)


def _added(total: Sketch | None, new: Sketch | None) -> Sketch | None:
    return new if total is None else total if new is None else total + new


def _examine_case(
    case: Case, *, dataset: Dataset
) -> tuple[list[Problem], bool, FormsApart, tuple[CaseFingerprint, _Sketches] | None]:
    """Examine a case.

    Returns:
        Its problems, whether its label holds background only, how far apart its headers place its files, and its
        measurements if it has no problem.
    """
    checked = read_checked(case, dataset)
    measured = None if checked.problems else measure_case(checked, labels=len(dataset.labels))
    return checked.problems, checked.background_only, FormsApart.of(case.files), measured
