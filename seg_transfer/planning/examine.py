"""Checks and measures the cases of a data set; each file is read once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from seg_transfer.data.checks import Problem, all_problems, forms_apart, read_checked
from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.case_fingerprint import CaseFingerprint, measure_case
from seg_transfer.planning.distribution import Sketch
from seg_transfer.planning.fingerprint import Fingerprint, pool
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.parallel import CaseFailure, map_cases

logger = logging.getLogger(__name__)

_Sketches = list[Sketch | None]
"""Per channel the intensities of the foreground of a case, or of several; None without foreground."""


@dataclass(frozen=True)
class Examination:
    """A data set whose cases were checked and measured.

    Attributes:
        dataset: With the cases that have no problem.
        problems: Of all other cases and of unused files, sorted by case and file.
        foreground: Per channel the intensities of the foreground of all cases; None without foreground.
        apart: Of all files of the cases, see :func:`~seg_transfer.data.checks.forms_apart`.
    """

    dataset: Dataset
    problems: list[Problem]
    foreground: _Sketches
    apart: dict[Path, float]
    _measured: dict[str, CaseFingerprint]

    @cached_property
    def site(self) -> SiteFingerprint:
        """Sum of the measurements of the cases that have no problem, of which there has to be one."""
        return SiteFingerprint.of(
            self._cases(),
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
        return pool(self.dataset.name, self.site, self._cases())

    def _cases(self) -> list[CaseFingerprint]:
        return [self._measured[case.id] for case in self.dataset.cases]


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
    apart: dict[Path, float] = {}
    measured: dict[str, CaseFingerprint] = {}
    unused = {problem.case for problem in all_problems(dataset, [])}
    pooled = _Pool([case.id for case in cases], len(dataset.channel_names))
    function = partial(_examine_case, dataset=dataset.select([]))
    for case, result in map_cases(function, cases, workers=workers, title="measuring", name=lambda case: case.id):
        if isinstance(result, CaseFailure):
            problems.append(Problem(case.id, case.images[0], result.cause, "see whether the file opens elsewhere"))
            pooled.add(case.id, None)
            continue
        of_case, background_only, apart_of_case, found = result
        apart |= apart_of_case
        problems += of_case
        empty += [case.id] if background_only else []
        if found is not None:
            measured[case.id], sketches = found
        pooled.add(case.id, None if found is None or case.id in unused else sketches)
    if empty:
        logger.info(f"{len(empty)} of {len(cases)} labels hold background only: {', '.join(sorted(empty))}")
    problems = all_problems(dataset, problems)
    broken = {problem.case for problem in problems}
    valid = dataset.select([case.id for case in cases if case.id not in broken])
    return Examination(valid, problems, pooled.sums, apart, measured)


class _Pool:
    """Adds sketches in the order of the cases, whatever the order they come in, since rounding depends on it.

    Attributes:
        sums: Of the cases so far.
    """

    def __init__(self, cases: list[str], channels: int) -> None:
        self.sums: _Sketches = [None] * channels
        self._order = iter(cases)
        self._next = next(self._order)
        self._early: dict[str, _Sketches | None] = {}

    def add(self, case: str, sketches: _Sketches | None) -> None:
        """Add a case; None: it is not counted."""
        self._early[case] = sketches
        while self._next in self._early:
            of_case = self._early.pop(self._next)
            if of_case is not None:
                self.sums = [
                    total if new is None else new if total is None else total + new
                    for total, new in zip(self.sums, of_case, strict=True)
                ]
            self._next = next(self._order, "")


def _examine_case(
    case: Case, *, dataset: Dataset
) -> tuple[list[Problem], bool, dict[Path, float], tuple[CaseFingerprint, _Sketches] | None]:
    """Examine a case.

    Returns:
        Its problems, whether its label holds background only, :func:`~seg_transfer.data.checks.forms_apart` of its
        files, and its measurements if it has no problem.
    """
    checked = read_checked(case, dataset)
    measured = None if checked.problems else measure_case(checked, labels=len(dataset.labels))
    return checked.problems, checked.background_only, forms_apart(case.files), measured
