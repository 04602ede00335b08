"""Checks a data set without planning, and writes a fixed copy of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import BaseModel

from seg_transfer.data.case_folders import FileNames
from seg_transfer.data.dataset import Dataset, find_dataset
from seg_transfer.data.fixes import Fix, check_copy, description_fixes, fixes, write_fixed
from seg_transfer.data.formats import read_header
from seg_transfer.data.fragments import Fragments, count_fragments
from seg_transfer.data.splits import groups_by_regex, suspected_groups
from seg_transfer.errors import UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.plan_options import CheckOptions
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.folds import FoldFiles, leak_notes, read_fold_files
from seg_transfer.planning.sides import named_against_place
from seg_transfer.planning.unusual import unusual
from seg_transfer.util import environment
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.remote import fetch

logger = logging.getLogger(__name__)

Severity = Literal["problem", "warning", "note"]
COPY_HINT = "--fix FOLDER writes a copy in which this is fixed"


class Finding(BaseModel):
    """What was found about a case, or about the data set as a whole.

    ``problem``: :func:`seg_transfer.plan` refuses it. ``warning``: perhaps an error. ``note``: worth knowing.
    """

    severity: Severity
    case: str | None = None
    file: Path | None = None
    what: str
    hint: str = ""


class LabelRange(BaseModel):
    """One label over the cases without problems; volumes in ml, of 2D images in pixels."""

    name: str
    value: int
    cases: int
    least: float | None
    median: float | None
    largest: float | None


class CheckReport(BaseModel):
    """Everything that was found about a data set."""

    dataset: str
    root: Path
    layout: str
    unit: str
    cases: int
    channels: list[str]
    labels: list[LabelRange]
    findings: list[Finding]
    fixed_copy: Path | None = None

    def count(self, severity: Severity) -> int:
        """Number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)


@takes(CheckOptions)
def check(options: CheckOptions) -> CheckReport:
    """Check a data set: everything that :func:`plan` verifies, and which cases are unlike the others.

    Compared are intensities, spacing, size, orientation, and each label's brightness, volume, number of fragments and
    side. Also found are identical images, groups on both sides of a fold, and what can be fixed without doubt. Nothing
    is written but the fixed copy, if one is asked for.

    Raises:
        UserError: If the data set cannot be read as a whole, or the fixed copy cannot be written.
    """
    names = FileNames(options.image_names, options.label_name)
    dataset = find_dataset(options.dataset, workers=options.workers, names=names)
    fetch(dataset.files())
    workers = environment.case_workers(options.workers, dataset.files())
    dataset = dataset.model_copy(update={"fill_nan": options.nan == "fill"})
    if options.fix is not None:
        check_copy(dataset, options.fix)
    files = read_fold_files(options, [case.id for case in dataset.cases], listed=dataset.groups)
    examined = examine(dataset, workers=workers)
    findings = [
        Finding(severity="problem", case=problem.case, file=problem.file, what=problem.what, hint=problem.hint)
        for problem in examined.problems
    ]
    fingerprint = None
    if examined.dataset.cases:
        fingerprint = examined.fingerprint()
        findings += _about_cases(examined.dataset, fingerprint, workers)
        findings += _about_folds(options, files, fingerprint)
    findings += _about_files(dataset, options.fix)
    if options.fix is not None:
        write_fixed(dataset, options.fix, workers=workers)
    order = ("problem", "warning", "note")
    return CheckReport(
        dataset=dataset.name,
        root=dataset.root,
        layout=dataset.layout,
        unit=dataset.unit,
        cases=len(dataset.cases),
        channels=list(dataset.channel_names),
        labels=[] if fingerprint is None else _ranges(fingerprint),
        findings=sorted(findings, key=lambda found: (order.index(found.severity), found.case or "")),
        fixed_copy=options.fix,
    )


def _about_cases(dataset: Dataset, fingerprint: Fingerprint, workers: int) -> Iterator[Finding]:
    """Cases that are unlike the others, labels without foreground, identical images."""
    fragments = _fragments(dataset, workers)
    cases = {case.id: case for case in dataset.cases}
    for case, texts in unusual(fingerprint, fragments).items():
        for text in texts:
            hint = "look at image and label; if both are right, it is a rare case"
            yield Finding(severity="warning", case=case, what=text, hint=hint)
    if dataset.unit == "mm":
        for text in named_against_place(fingerprint.cases, [label.name for label in fingerprint.labels]):
            hint = "correct the images' orientation, or exchange the labels' names"
            yield Finding(severity="warning", what=text, hint=hint)
    for measured in fingerprint.cases:
        if not any(label.voxels for label in measured.labels):
            what = "its label holds background only: right for a healthy case"
            yield Finding(severity="note", case=measured.id, file=cases[measured.id].label, what=what)
    for label in fingerprint.labels:
        if not label.cases:
            what = f"the label {label.name} is declared, but in no case, so that it cannot be learned"
            yield Finding(severity="warning", what=what, hint="take it out of dataset.json, or add cases with it")
    for same in fingerprint.duplicates():
        hint = "keep one of them; plan keeps them in one fold"
        yield Finding(severity="warning", case=same.cases[0], what=str(same), hint=hint)


def _fragments(dataset: Dataset, workers: int) -> Mapping[str, Sequence[Fragments]]:
    count = partial(count_fragments, dataset=dataset.select([]))
    found = map_cases(count, dataset.cases, workers=workers, title="fragments", name=lambda case: case.id)
    return {case.id: result for case, result in found if not isinstance(result, CaseFailure)}


def _about_folds(options: CheckOptions, files: FoldFiles, fingerprint: Fingerprint) -> Iterator[Finding]:
    """Groups and identical images on both sides of a fold, and names that look like several images of a patient."""
    cases = [case.id for case in fingerprint.cases]
    regex = suspected_groups(cases) if files.groups is None else None
    groups = files.groups if regex is None else groups_by_regex(cases, regex)
    if files.splits is not None and options.splits is not None:
        for note in leak_notes(options.splits, files.splits, groups, fingerprint.duplicates()):
            hint = "keep the cases of a group on one side of each fold"
            if regex is not None:
                hint += f", if their names tell the patient ({regex}); say which do with --group-by or --groups"
            yield Finding(severity="warning", what=note, hint=hint)
    if regex is not None:
        what = f"the cases' names look like several images of one patient, such as {cases[0]} and {cases[1]}"
        hint = f"if so, plan with --group-by '{regex}': a patient in training and validation makes scores too high"
        yield Finding(severity="note", what=what, hint=hint)


def _about_files(dataset: Dataset, copy: Path | None) -> Iterator[Finding]:
    """Headers that programs read in two ways, and what can be fixed."""
    for fix in description_fixes(dataset):
        yield _note(None, fix, copy)
    for case in dataset.cases:
        for path in case.files:
            with suppress(UserError):
                header = read_header(path)
                if header.apart:
                    what = f"its sform and qform place it {header.apart:.3g} mm apart; segtl uses the sform"
                    hint = "write both alike; other programs may use the other one"
                    yield Finding(severity="warning", case=case.id, file=path, what=what, hint=hint)
                nifti = header.grid.nifti
                if dataset.dimension == 3 and nifti and not (nifti.qform_code or nifti.sform_code):
                    what = "it has neither sform nor qform: what is left and right is not known"
                    hint = "convert it again from its source; segtl takes x to the right, y to the front, z up"
                    yield Finding(severity="warning", case=case.id, file=path, what=what, hint=hint)
        for fix in fixes(case):
            yield _note(case.id, fix, copy)


def _note(case: str | None, fix: Fix, copy: Path | None) -> Finding:
    hint = COPY_HINT if copy is None else f"it is fixed in {copy}"
    return Finding(severity="note", case=case, file=fix.file, what=fix.what, hint=hint)


def _ranges(fingerprint: Fingerprint) -> list[LabelRange]:
    ranges = []
    for index, label in enumerate(fingerprint.labels):
        sizes = [one.volume for case in fingerprint.cases if (one := case.labels[index]).voxels]
        least, middle, largest = (min(sizes), median(sizes), max(sizes)) if sizes else (None, None, None)
        ranges.append(
            LabelRange(
                name=label.name, value=label.value, cases=len(sizes), least=least, median=middle, largest=largest
            )
        )
    return ranges
