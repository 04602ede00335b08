"""Results as CSV: one file per study, one row per run; a mapping of figures is one compact column."""

from __future__ import annotations

import csv
import fcntl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from seg_transfer.util.files import whole_file
from seg_transfer.util.local_files import make_folder

Row = dict[str, str]
"""A row by column."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none if it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def find_row(path: Path, **wanted: object) -> Row | None:
    """The first row with these values; None if there is none."""
    return next(
        (row for row in read_rows(path) if all(row[name] == str(value) for name, value in wanted.items())), None
    )


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Add rows and replace the file; processes that append at the same time wait for each other.

    Args:
        path: The CSV file.
        columns: Of the file; a row may lack some of them.
        rows: What to add.
    """
    make_folder(path.parent)
    with (path.parent / f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_rows(path)
        with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows([*known, *rows])


def pairs_text(pairs: Mapping[str, object]) -> str:
    """``{"liver": 0.9, "spleen": 0.8}`` as ``liver=0.9; spleen=0.8``."""
    return "; ".join(f"{name}={value}" for name, value in pairs.items())


def figures_of(text: str) -> dict[str, float]:
    """The figures that :func:`pairs_text` has written."""
    return {name: float(value) for name, value in (part.split("=") for part in text.split("; ") if part)}
