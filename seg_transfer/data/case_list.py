"""A list of cases, whose files may lie anywhere: patient folders, a file server, derivatives of BIDS."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seg_transfer.data.naming import Case, case_name
from seg_transfer.errors import UserError
from seg_transfer.util.addresses import is_address, path_of
from seg_transfer.util.names import is_file_name
from seg_transfer.util.remote import look_at_files
from seg_transfer.util.text_files import read_json, read_text

ENDINGS = (".csv", ".json")
IMAGE, PREFIX = "image", "image_"
OTHERS = ("case", "label", "group")
HINT = (
    "write a line case,image,label for each case, with the columns named in the first line; image_t1,image_t2 in place "
    "of image for several channels; a column group keeps a patient's cases in one fold; in JSON a list of such objects"
)


@dataclass(frozen=True)
class CaseList:
    """What a list holds.

    Attributes:
        cases: Sorted by name.
        channels: Names of the image columns; one empty name for the column ``image``.
        groups: Case -> group; None without groups.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    groups: dict[str, str] | None


def is_case_list(path: Path) -> bool:
    """Whether a path is a file that may be a list of cases."""
    return path.suffix.lower() in ENDINGS and path.is_file()


def read_case_list(path: Path) -> CaseList:
    """Read a list of cases, ``.csv`` or ``.json``; paths in it are absolute, below its folder, or addresses.

    Raises:
        UserError: If it has another form, lists no case, or one twice. Whether the files exist is checked later.
    """
    cases: dict[str, Case] = {}
    groups: dict[str, str] = {}
    columns: tuple[str, ...] = ()
    for where, row in _rows(path):
        images = tuple(name for name in row if name == IMAGE or name.startswith(PREFIX))
        if not columns:
            columns = images
        if unknown := [name for name in row if name not in (*images, *OTHERS)]:
            raise UserError(f"{where} has a column {unknown[0][:60]!r}", where=path, hint=HINT)
        if not images or images != columns or (IMAGE in images and len(images) > 1):
            raise UserError(f"{where} names the images {', '.join(images) or 'not'}", where=path, hint=HINT)
        for name in ("case", "label", *images):
            if not row.get(name):
                raise UserError(f"{where} has no {name}", where=path, hint=HINT)
        case = case_name(row["case"])
        if not is_file_name(case):
            raise UserError(f"{where}: {case[:60]!r} cannot be the name of a case", where=path, hint=HINT)
        if case in cases:
            raise UserError(f"{where}: case {case} is listed twice", where=path, hint="list each case once")
        files = [_file(path, row[name]) for name in (*images, "label")]
        cases[case] = Case(case, tuple(files[:-1]), files[-1])
        if row.get("group"):
            groups[case] = row["group"]
    if not cases:
        raise UserError("it lists no case", where=path, hint=HINT)
    if groups and (missing := sorted(cases.keys() - groups)):
        raise UserError(f"no group for {', '.join(missing[:5])}", where=path, hint="give the group of every case")
    look_at_files(file for case in cases.values() for file in case.files)
    channels = tuple("" if name == IMAGE else name.removeprefix(PREFIX) for name in columns)
    return CaseList(tuple(cases[case] for case in sorted(cases)), channels, groups or None)


def _file(path: Path, text: str) -> Path:
    """The file that a list names by a path or by an address."""
    return path_of(text) if is_address(text) else path.absolute().parent / text


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row stands, and its columns -> texts."""
    if path.suffix.lower() == ".json":
        content = read_json(path, HINT)
        if not isinstance(content, list):
            raise UserError("not a list of cases", where=path, hint=HINT)
        for number, entry in enumerate(content, start=1):
            yield f"entry {number}", _texts(entry, f"entry {number}", path)
        return
    try:
        reader = csv.DictReader(read_text(path, HINT).splitlines(), strict=True)
        for row in reader:
            yield f"line {reader.line_num}", _texts(row, f"line {reader.line_num}", path)
    except csv.Error as error:
        raise UserError(f"not readable as CSV: {error}", where=path, hint=HINT) from None


def _texts(row: Any, where: str, path: Path) -> dict[str, str]:
    """A row's columns -> texts without spaces around them; a column that is empty in a CSV is missing."""
    if not isinstance(row, dict) or None in row:
        raise UserError(f"{where} does not have the columns of the first line", where=path, hint=HINT)
    texts = {str(name).strip(): value for name, value in row.items() if value is not None}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str)]:
        raise UserError(f"{where}: {wrong[0][:60]} is no text", where=path, hint=HINT)
    return {name: value.strip() for name, value in texts.items()}
