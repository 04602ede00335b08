"""Checks and measures a data set, once as long as its files do not change."""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.checks import raise_problems
from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import UserError
from seg_transfer.planning.examine import examine
from seg_transfer.planning.fingerprint import Fingerprint
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.files import file_digest, file_stamp, write_text
from seg_transfer.util.local_files import make_folder
from seg_transfer.workflow.work_folder import WorkFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredDataset:
    """A checked data set with its measurements, per case and summed up.

    ``stamp`` is a hash of the data's names, sizes and times.
    """

    dataset: Dataset
    fingerprint: Fingerprint
    site: SiteFingerprint
    stamp: str

    def save(self, work: WorkFolder) -> None:
        """Write them; the stamp last, so that an interrupted call leaves no valid stamp."""
        make_folder(work.path)
        work.stamp.unlink(missing_ok=True)
        self.dataset.save(work.dataset)
        self.fingerprint.save(work.fingerprint)
        self.site.save(work.site)
        write_text(work.stamp, _stamp_with_results(self.stamp, work) + "\n")


def check_and_measure(dataset: Dataset, work: WorkFolder, *, skip_broken: bool, workers: int) -> MeasuredDataset:
    """Check every case and measure the data set, or read an earlier result about the same files.

    An earlier result that is damaged is made again.

    Args:
        dataset: The data set with the selected cases.
        work: WorkFolder folder with the earlier result, if there is one; nothing is written.
        skip_broken: Leave cases with problems out instead of refusing the data set.
        workers: Processes; 0 works in this one.

    Raises:
        UserError: With all problems of all cases, unless they are skipped.
    """
    stamp = _stamp(dataset, skip_broken=skip_broken)
    if (earlier := _earlier(work, stamp)) is not None:
        return earlier
    examined = examine(dataset, workers=workers)
    examined.apart.warn()
    if examined.problems and not skip_broken:
        raise_problems(examined.problems)
    for problem in examined.problems:
        logger.warning(f"left out: {problem.case}: {problem.file}: {problem.what}")
    dataset, fingerprint = examined.dataset, examined.fingerprint()
    name = _known_name(work, fingerprint)
    return MeasuredDataset(
        dataset.model_copy(update={"name": name}),
        fingerprint.model_copy(update={"dataset": name}),
        examined.site,
        stamp,
    )


def _known_name(work: WorkFolder, fingerprint: Fingerprint) -> str:
    """The data set's name; the earlier one where the content is the same, so that a renamed folder changes no hash."""
    with suppress(UserError):
        earlier = Fingerprint.load(work.fingerprint)
        if earlier.model_copy(update={"dataset": fingerprint.dataset}) == fingerprint:
            return earlier.dataset
    return fingerprint.dataset


def _earlier(work: WorkFolder, stamp: str) -> MeasuredDataset | None:
    """The result of an earlier call about the same files; None if there is none, or it is damaged."""
    if not all(file.is_file() for file in (work.stamp, *_results(work))):
        return None
    found = work.stamp.read_text(encoding="utf-8", errors="replace").split()
    if found != _stamp_with_results(stamp, work).split():
        if len(found) > 1 and found[0] == stamp:
            files = ", ".join(file.name for file in _results(work))
            logger.warning(f"{work.path}: one of {files} was changed: the data set is measured again")
        return None
    logger.debug(f"{work.fingerprint}: the data set's files are unchanged, its measurements are used again")
    dataset, fingerprint = Dataset.load(work.dataset), Fingerprint.load(work.fingerprint)
    return MeasuredDataset(dataset, fingerprint, SiteFingerprint.load(work.site), stamp)


def _results(work: WorkFolder) -> tuple[Path, Path, Path]:
    """The files that the stamp is about."""
    return work.dataset, work.fingerprint, work.site


def _stamp_with_results(stamp: str, work: WorkFolder) -> str:
    """The stamp and the digests of the files that were made at the same time, one per line."""
    return "\n".join([stamp, *map(file_digest, _results(work))])


def _stamp(dataset: Dataset, *, skip_broken: bool) -> str:
    """Hash of the data set's description, and of path, size and modification time of every file."""
    versions = Fingerprint.current_version(), SiteFingerprint.current_version()
    described = repr((*versions, skip_broken, dataset.model_copy(update={"cases": ()})))
    before, _, after = described.partition("cases=()")
    digest = hashlib.sha256(f"{before}cases=(".encode())
    for number, case in enumerate(dataset.cases):  # one at a time, since there may be very many
        digest.update(f"{', ' if number else ''}{case!r}".encode())
    digest.update(f"{',' if len(dataset.cases) == 1 else ''}){after}".encode())
    for path in dataset.files():
        digest.update(f"{path} {file_stamp(path)}\n".encode())
    return digest.hexdigest()
