"""Names that control a terminal: shown with escapes, wherever they come from."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from rich.table import Table

from seg_transfer.cli import printing
from seg_transfer.cli.console import SafeConsole, TracebackFile, set_level, shown_on_stderr
from seg_transfer.errors import SomeCasesFailed, UserError, printable
from seg_transfer.workflow.status import Status

EVIL = [
    "a\x1b[2Jb",
    "a\x1b]0;title\x07b",
    "a\x9b31mb",
    "a\x7fb",
    "a\rb",
    "a\x08b",
    "a\x00b",
    "a\u202eb",
    "a\u2066b",
    "a\u200fb",
    "a\udc9bb",
    "a\u2028b",
]
FORBIDDEN = {chr(code) for code in (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))} | {
    "\u200f",
    "\u2028",
    "\udc9b",
}


def is_safe(text: str) -> bool:
    return not FORBIDDEN & (set(text) - {"\n"})


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_escaped_in_errors_log_tables_and_json(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert is_safe(str(UserError(f"label {name}", where=Path(name), hint=f"rename {name}")))
    assert is_safe(str(SomeCasesFailed({name: f"damaged: {name}"}, of=2)))
    with shown_on_stderr():
        logging.getLogger("seg_transfer.made").warning(f"{name} is left out")
    error = capsys.readouterr().err
    assert is_safe(error) and printable(name) in error
    console = SafeConsole(file=io.StringIO(), markup=False, width=200)
    table = Table("label", name, title=name)
    table.add_row(name, "0.5")
    console.print(table)
    console.print(name)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert is_safe(shown) and shown.count(printable(name)) == 4
    if "\udc9b" not in name:  # no JSON holds half of a character
        printing.print_json(
            Status(work=name, dataset=name, plan=None, edited=[], cases=0, preprocessed=0, runs=[], next=[])
        )
        out = capsys.readouterr().out
        assert is_safe(out) and json.loads(out)["dataset"] == name
    log = TracebackFile(tmp_path / "segtl.log")
    log.handle(logging.LogRecord("seg_transfer", logging.ERROR, "", 0, name, None, None))
    log.close()
    assert is_safe((tmp_path / "segtl.log").read_text())


def test_a_name_with_line_breaks_makes_no_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    name = "case\nhint: all is well"
    with shown_on_stderr():
        logging.getLogger("seg_transfer.made").warning(f"{name} is left out")
        logging.getLogger("seg_transfer.made").error(str(UserError("damaged", where=name, hint="copy it again")))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "warning: case\\u000ahint: all is well is left out",
        "case\\u000ahint: all is well: damaged",
        "  hint: copy it again",
    ]


def test_lists_and_tracebacks_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    failures = SomeCasesFailed({"one": "damaged", "two": "missing"}, of=3)
    assert str(failures).splitlines()[1:] == ["  one: damaged", "  two: missing"]
    with shown_on_stderr():
        set_level(logging.DEBUG)
        logging.getLogger("seg_transfer.tracebacks").error("Traceback\n  File\nValueError: x")
    assert capsys.readouterr().err.splitlines() == ["Traceback", "    File", "  ValueError: x"]


def test_what_is_no_control_character_stays() -> None:
    text = "Läsion 肝臓 \\ é \u00e9 🫀 a\u0301"
    assert printable(text) == text
    assert printable(printable("\x1b")) == "\\u001b"
