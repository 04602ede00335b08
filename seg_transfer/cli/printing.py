"""Prints tables, lines and JSON on stdout."""

from __future__ import annotations

import sys

from pydantic_core import to_json
from rich.cells import cell_len
from rich.table import Column, Table

from seg_transfer.cli.console import SafeConsole, wrapped
from seg_transfer.errors import printable

FILE_WIDTH = 140
"""Columns of a table in a file or pipe; rich's default is 80."""
CELL_PADDING = 3


def console() -> SafeConsole:
    """The console of stdout."""
    return SafeConsole(highlight=False, markup=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


def print_json(result: object) -> None:
    """Print a result as JSON; values that are undefined are null."""
    content = to_json(result, indent=2, inf_nan_mode="null").decode()
    sys.stdout.write(printable(content, keep="\n") + "\n")


def print_table(table: Table) -> None:
    """Print a table; where the terminal is so narrow that words would break, each row as lines of its own."""
    out = console()
    if sum(_least_width(column) + CELL_PADDING for column in table.columns) < out.width:
        out.print(table)
        return
    if table.title:
        print_line(f"{table.title}:")
    headers = [str(column.header) for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        print_line(str(first))
        for header, cell in zip(headers[1:], others, strict=True):
            if cell:
                print_line(f"  {header}: {cell}")
    if table.caption:
        print_line(str(table.caption))


def _least_width(column: Column) -> int:
    """Columns of the terminal that a column of a table needs to break no word."""
    words = [word for cell in (column.header, *column.cells) for word in str(cell).split()]
    return max(map(cell_len, words), default=0)


def print_line(text: str) -> None:
    """Print a line, in a file or pipe as a whole, on a terminal broken at spaces."""
    out = console()
    out.print(wrapped(text, out.width) if out.is_terminal else text, soft_wrap=True)
