"""Checks and measures a data set once: as long as its files stay as they are, planning again is instant."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from seg_transfer.data.checks import check_dataset, raise_problems
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.fingerprint import Fingerprint, measure
from seg_transfer.util.files import file_stamp, make_folder, write_text
from seg_transfer.workflow.work_folder import Work

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """A checked data set with its measurements; ``stamp`` says of which files."""

    dataset: Dataset
    fingerprint: Fingerprint
    stamp: str

    def save(self, work: Work) -> None:
        """Write both; the stamp last, so that a half-written pair is never taken for a whole one."""
        make_folder(work.path)
        work.stamp.unlink(missing_ok=True)
        self.dataset.save(work.dataset)
        self.fingerprint.save(work.fingerprint)
        write_text(work.stamp, self.stamp + "\n")


def check_and_measure(found: Dataset, work: Work, *, skip_broken: bool, workers: int, seed: int) -> Measured:
    """Check every case and measure the data set, or take what an earlier call saved about the same files.

    Args:
        found: The data set, cut to the cases that the user wants.
        work: Where an earlier result may lie; nothing is written.
        skip_broken: Leave cases with problems out instead of refusing the data set.
        workers: Processes; 0 works in this one.
        seed: Of the samples.

    Raises:
        UserError: With all problems of all cases, unless they are skipped.
    """
    stamp = _stamp(found, skip_broken=skip_broken, seed=seed)
    if work.stamp.is_file() and work.stamp.read_text(encoding="utf-8").strip() == stamp:
        logger.debug(f"{work.fingerprint}: the data set's files are unchanged, its measurements are used again")
        return Measured(Dataset.load(work.dataset), Fingerprint.load(work.fingerprint), stamp)
    problems = check_dataset(found, workers=workers)
    if problems and not skip_broken:
        raise_problems(problems)
    broken = {problem.case for problem in problems}
    for problem in problems:
        logger.warning(f"left out: {problem.case}: {problem.file}: {problem.what}")
    whole = [case.id for case in found.cases if case.id not in broken]
    if not whole:
        raise UserError("every case has problems", where=found.root, hint="fix them as described above")
    dataset = found.select(whole)
    return Measured(dataset, measure(dataset, workers=workers, seed=seed), stamp)


def _stamp(dataset: Dataset, *, skip_broken: bool, seed: int) -> str:
    """Changes with the data set's description, and with path, size or modification time of any file."""
    digest = hashlib.sha256(repr((Fingerprint.current_version(), skip_broken, seed, dataset)).encode())
    for case in dataset.cases:
        for path in (*case.images, *([case.label] if case.label else [])):
            digest.update(f"{path} {file_stamp(path)}\n".encode())
    return digest.hexdigest()
