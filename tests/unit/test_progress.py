"""What the user sees goes to stderr, and is quiet when asked to be; a host that does not ask sees nothing."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from seg_transfer.cli import console
from seg_transfer.util import progress
from seg_transfer.util.progress import TRACEBACKS

LOGGER = logging.getLogger("seg_transfer")


@pytest.fixture
def shown() -> Iterator[None]:
    """As on the command line."""
    with console.shown_on_stderr():
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("shown")
def test_track_passes_items_on_and_says_when_done(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for item in progress.track(iter("abcd"), total=4, title="reading"):
        seen.append(item)
        clock[0] += 4
    assert seen == list("abcd")
    out, err = capsys.readouterr()
    assert out == ""
    # 4 s an item: the first line is due after 12 s, with one item of 4 s left.
    assert err.splitlines() == ["reading: 3/4, 4.0 s left", "reading: 4/4 in 16 s"]


@pytest.mark.usefixtures("shown")
def test_meter_shows_percent_and_note(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.meter(total=1.0, title="training") as show:
        clock[0] += 30
        show(0.25, "loss 0.5")
        clock[0] += 1
        show(1.0, "loss 0.1")
    assert capsys.readouterr().err.splitlines() == [
        "training: 25 %, 90 s left, loss 0.5",
        "training: 100 % in 31 s, loss 0.1",
    ]


@pytest.mark.usefixtures("shown")
def test_unfinished_work_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        for _ in progress.track([1, 2], total=2, title="dividing"):
            with progress.meter(total=3, title="inner"):
                raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def say_everything() -> None:
    LOGGER.info("said")
    LOGGER.debug("detailed")
    LOGGER.warning("[careful]")
    logging.getLogger(TRACEBACKS).error("in line 3")


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (logging.WARNING, "warning: [careful]\n"),
        (logging.INFO, "said\nwarning: [careful]\n"),
        (logging.DEBUG, "said\ndetailed\nwarning: [careful]\nin line 3\n"),
    ],
)
def test_what_is_said_by_level(level: int, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    console.set_level(level)
    say_everything()
    assert capsys.readouterr().err == expected


@pytest.mark.usefixtures("shown")
def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    console.set_level(logging.WARNING)
    assert list(progress.track([1], total=1, title="counting")) == [1]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("shown")
def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.info("word " * 100)
    assert capsys.readouterr().err == "word " * 100 + "\n"


def test_a_terminal_gets_lines_that_are_broken_at_spaces_alone() -> None:
    """In the terminal of a real program, of 80 columns."""
    path = "/data/" + "deep/" * 20 + "case.nii.gz"
    command = "`segtl train cv -w work`"
    said = f"scores are of two of five folds only, which is not all there are: {command} trains the others; see {path}"
    program = f"""
import sys
from seg_transfer.cli import console, printing
with console.shown_on_stderr():
    console.LOGGER.warning({said!r} + "\\n  " + "indented " * 12)
    printing.print_line({said!r})
"""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=end, stderr=end, stdin=end, env=environment | {"TERM": "xterm"}
    )
    os.close(end)
    content = b""
    with suppress(OSError):  # which Linux raises where the other side is closed
        while part := os.read(terminal, 4096):
            content += part
    os.close(terminal)
    assert process.wait() == 0, content
    lines = re.sub("\x1b\\[[0-9;]*m", "", content.decode()).splitlines()
    assert [line for line in lines if len(line) > 80] == [f"  {path}"] * 2
    assert sum(command in line for line in lines) == 2
    assert " ".join(lines).split() == f"warning: {said} {'indented ' * 12} {said}".split()
    assert all(line.startswith(("  ", "warning: ", "scores")) for line in lines)


def test_the_console_leaves_nothing_behind() -> None:
    before = list(LOGGER.handlers), LOGGER.level, LOGGER.propagate
    with console.shown_on_stderr():
        console.set_level(logging.DEBUG)
        assert list(LOGGER.handlers) != before[0]
    assert (list(LOGGER.handlers), LOGGER.level, LOGGER.propagate) == before


def test_a_library_is_silent_until_its_host_asks() -> None:
    program = """
import logging, sys, seg_transfer
from seg_transfer.util.progress import track
def work():
    logging.getLogger("seg_transfer.data.checks").warning("careful")
    list(track([1], total=1, title="counting"))
work()
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
work()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert re.fullmatch(r"WARNING careful\nINFO counting: 1/1 in \S+ s\n", done.stderr)


def test_tracebacks_have_a_file_that_is_made_for_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "work" / "segtl.log"
    with console.shown_on_stderr():
        console.log_tracebacks(path)
        LOGGER.error("what the user did wrong")
        assert not path.parent.exists()
        logging.getLogger(TRACEBACKS).error("measuring: case_1\nline 3")
        console.log_tracebacks(None)
        logging.getLogger(TRACEBACKS).error("measuring: case_2\nline 4")
    text = path.read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d measuring: case_1\nline 3\n\n", text)


def test_bars_within_bars_share_one_display() -> None:
    handler = console.TerminalHandler(Console(force_terminal=True, stderr=True))
    LOGGER.addHandler(handler)
    before = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    try:
        outer = progress.track([1, 2], total=2, title="folds")
        next(outer)
        display = handler.display
        assert display is not None
        with progress.meter(total=5, title="epochs") as show:
            assert handler.display is display
            show(3, "loss")
            assert [(task.description, task.completed) for task in display.tasks] == [("folds", 0), ("epochs", 3)]
        assert len(display.tasks) == 1
        assert list(outer) == [2]
        assert handler.display is None
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
