"""Lists DICOM series, and converts those that are volumes to NIfTI."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from seg_transfer.data.dicom import Series, find_series, read_series
from seg_transfer.data.formats import write_volume
from seg_transfer.errors import SomeCasesFailed, UserError
from seg_transfer.options.calls import takes
from seg_transfer.options.other_options import ConvertOptions
from seg_transfer.util.archives import unpack
from seg_transfer.util.local_files import make_folder
from seg_transfer.util.progress import track
from seg_transfer.util.records import JsonRecord, Record
from seg_transfer.workflow.output_files import check_output_folder

SERIES_FILE = "series.json"
LONGEST_DESCRIPTION = 40


class FoundSeries(Record):
    """A series of a DICOM folder."""

    name: str = Field(description="of its NIfTI file, without ending")
    uid: str
    study: str
    modality: str
    description: str
    number: str
    files: int
    shape: tuple[int, int, int] | None = Field(description="columns, rows and slices; null if it is no volume")
    spacing: tuple[float, float, float] | None = Field(description="along these, in mm")
    problem: str = Field(description="why it is no volume; empty if it is one")


class SeriesList(JsonRecord):
    """``series.json``: the series that were converted."""

    noun: ClassVar[str] = "list of series"
    if_missing: ClassVar[str] = "run `segtl convert`"
    if_wrong: ClassVar[str] = "convert again"

    version: Literal[1] = 1
    series: tuple[FoundSeries, ...]


@takes(ConvertOptions)
def convert(options: ConvertOptions) -> list[FoundSeries]:
    """List the series of a DICOM folder, and with ``output`` convert those that are volumes to ``.nii.gz``.

    Returns:
        All series that were chosen; those with a problem are not converted.

    Raises:
        SomeCasesFailed: If some of the chosen series are no volumes, or damaged; all others are converted.
        UserError: If there is no DICOM file, or no series of that name.
    """
    if options.output is not None:
        check_output_folder(options.output)
    with unpacked(options.dicom) as folder:
        found = _chosen(find_series(folder), options.series, options.dicom)
        described = [_described(series) for series in found]
        if options.output is not None:
            _convert(found, described, options.output)
    return described


def _convert(found: Sequence[Series], described: Sequence[FoundSeries], output: Path) -> None:
    failures = {one.name: one.problem for one in described if one.problem}
    whole = [(series, one) for series, one in zip(found, described, strict=True) if not one.problem]
    done: list[FoundSeries] = []
    if whole:
        make_folder(output)
    for series, one in track(whole, total=len(whole), title="converting"):
        try:
            array, grid = read_series(series)
        except UserError as error:
            failures[one.name] = str(error)
            continue
        write_volume(output / f"{one.name}.nii.gz", array, grid)
        done.append(one)
    if done:
        known = SeriesList.load(output / SERIES_FILE).series if (output / SERIES_FILE).is_file() else ()
        names = {one.name for one in done}
        kept = tuple(one for one in known if one.name not in names)
        SeriesList(series=(*kept, *done)).save(output / SERIES_FILE)
    if failures:
        raise SomeCasesFailed(failures, of=len(found))


def _described(series: Series) -> FoundSeries:
    grid = series.grid
    return FoundSeries(
        name=series_name(series),
        uid=series.uid,
        study=series.study,
        modality=series.modality,
        description=series.description,
        number=series.number,
        files=len(series.slices),
        shape=None if grid is None else grid.shape,
        spacing=None if grid is None else grid.spacing,
        problem=series.problem,
    )


def series_name(series: Series) -> str:
    """Description or modality, and eight digits that depend on the identifier: the same for the same series."""
    text = re.sub(r"[^A-Za-z0-9]+", "-", series.description or series.modality or "series").strip("-")
    digits = hashlib.sha256(series.uid.encode()).hexdigest()[:8]
    return f"{text[:LONGEST_DESCRIPTION] or 'series'}_{digits}"


def _chosen(found: list[Series], wanted: Sequence[str], where: Path) -> list[Series]:
    """The series that are named by identifier, number or description; all without a name."""
    if not wanted:
        return found
    chosen = [one for one in found if {one.uid, one.number, one.description} & set(wanted)]
    known = {name for one in chosen for name in (one.uid, one.number, one.description)}
    if missing := [name for name in wanted if name not in known]:
        listed = ", ".join(f"{one.number} ({one.description or one.modality})" for one in found[:10])
        raise UserError(f"no series {missing[0]!r}", where=where, hint=f"it holds: {listed}")
    return chosen


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The folder itself, or the content of a .zip in a temporary one.

    Raises:
        UserError: If the archive is damaged, hostile, or its content does not fit onto the disk.
    """
    if not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="segtl-") as temporary:
        unpack(path, Path(temporary), most=shutil.disk_usage(temporary).free)
        yield Path(temporary)
