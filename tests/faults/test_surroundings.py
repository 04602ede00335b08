"""Odd surroundings: locale, home and temporary folder, terminal, closed output. Commands work, or say one thing."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Tried
from made_balls import make_dataset
from made_work import LIGHT, add_run, ball_plan, make_work

from seg_transfer.data.dataset import Dataset
from seg_transfer.errors import OUTPUT_CLOSED, USER_ERROR

NAME = "Fälle β 病例"
SEGTL = shlex.join([sys.executable, "-m", "seg_transfer"])
LOCALES: dict[str, dict[str, str | None]] = {
    "C": {"LC_ALL": "C"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"},
    "unknown": {"LC_ALL": "xx_XX.no-such-encoding"},
    "none": {"LC_ALL": None, "LANG": None, "LC_CTYPE": None},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    "Latin output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
}
PLACES: dict[str, dict[str, str | None]] = {
    "no HOME": {"HOME": None},
    "HOME missing": {"HOME": "/nowhere/home"},
    "HOME a file": {"HOME": "/dev/null"},
    "HOME read-only": {"HOME": "/proc"},
    "TMPDIR missing": {"TMPDIR": "/nowhere/tmp"},
    "caches read-only": {"HF_HOME": "/proc/hub", "TORCH_HOME": "/proc/torch", "XDG_CACHE_HOME": "/proc/cache"},
    "matplotlib's folder read-only": {"MPLCONFIGDIR": "/proc/matplotlib"},
}
TERMINALS: dict[str, dict[str, str | None]] = {
    "dumb": {"TERM": "dumb"},
    "none": {"TERM": None},
    "narrow": {"COLUMNS": "20", "LINES": "2"},
    "odd width": {"COLUMNS": "no number"},
    "colours forced": {"FORCE_COLOR": "1", "COLUMNS": "20"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a trained work folder in a folder whose name has other letters."""
    folder = tmp_path_factory.mktemp("odd") / NAME
    data = make_dataset(folder / "balls")
    work = make_work(folder / "work", data)
    add_run(work, ball_plan(Dataset.load(work.dataset), "2d", encoder=LIGHT))
    return folder


def often(names: dict[str, Any], quickly: tuple[str, ...]) -> list[Any]:
    """Parameters of which only some are in `make test`."""
    return [name if name in quickly else pytest.param(name, marks=pytest.mark.slow) for name in names]


def shell(line: str, folder: Path, changes: dict[str, str | None]) -> subprocess.CompletedProcess[str]:
    """Run a line in bash; the exit code is that of the first command of its pipe."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **changes}
    environment = {name: value for name, value in environment.items() if value is not None}
    script = f'segtl() {{ {SEGTL} "$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=300,
    )


def works(line: str, folder: Path, changes: dict[str, str | None]) -> str:
    """The line succeeds without a traceback; returns what it printed."""
    ended = shell(line, folder, changes)
    assert ended.returncode == 0, ended
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr
    return ended.stdout


WHOLE_WAY = [
    "segtl plan balls -w new --config 2d --encoder tf_efficientnet_lite0 --weights none --epochs 1 --memory 1GB "
    "--folds 2 --device cpu --workers 1",
    "segtl preprocess -w new --workers 1",
    "segtl summary -w work --workers 1",
    "segtl predict -w work -i balls/imagesTr -o maps --device cpu",
    "segtl evaluate maps balls/labelsTr -w work --json scores.json --workers 0",
    "segtl export -w work -o model.segtl",
]


class TestLocale:
    @pytest.mark.parametrize("name", often(LOCALES, ("C", "unknown", "ASCII")))
    def test_names_of_other_letters(self, folder: Path, name: str, tried: Tried) -> None:
        assert "cases" in works(f"segtl status -w '../{NAME}/work'", folder, LOCALES[name])
        tried("odd locale", 1)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", LOCALES)
    def test_the_whole_way(self, folder: Path, name: str, tried: Tried) -> None:
        for line in WHOLE_WAY:
            works(line, folder, LOCALES[name])
        tried("odd locale", len(WHOLE_WAY))


class TestPlaces:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", PLACES)
    def test_the_whole_way(self, folder: Path, name: str, tried: Tried) -> None:
        for line in WHOLE_WAY:
            works(line, folder, PLACES[name])
        tried("odd HOME and TMPDIR", len(WHOLE_WAY))


NO_NAME = """
import os, pwd, sys
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
def unknown(number):
    raise KeyError(number)
pwd.getpwuid = unknown
from seg_transfer.__main__ import main
sys.exit(main())
"""


def test_a_user_without_name_and_home(folder: Path, tried: Tried) -> None:
    """As in a container that runs as another user."""
    for line in ("evaluate balls/labelsTr balls/labelsTr --workers 0", "encoders"):
        works(f"{sys.executable} -c {shlex.quote(NO_NAME)} {line}", folder, {})
        tried("odd HOME and TMPDIR", 1)


class TestTerminal:
    @pytest.mark.parametrize("name", often(TERMINALS, ("narrow",)))
    def test_status_and_help(self, folder: Path, name: str, tried: Tried) -> None:
        assert "preprocessed" in works("segtl status -w work", folder, TERMINALS[name])
        works("segtl train --help", folder, TERMINALS[name])
        tried("odd terminal", 2)


CLOSED = ("segtl status -w work >&-", "segtl status -w work >&- 2>&- <&-", "segtl >&-", "segtl status -w none 2>&-")
LINES = ("segtl status --json -w work", "segtl status -w work", "segtl encoders", "segtl -h")
READERS = ("| exec true", "2>&1 | exec true", "| head -c 1")


class TestOutput:
    @pytest.mark.parametrize("line", often(dict.fromkeys(CLOSED), CLOSED[1:2]))
    def test_closed(self, folder: Path, line: str, tried: Tried) -> None:
        ended = shell(line, folder, {})
        assert ended.returncode == (USER_ERROR if "none" in line else 0), ended
        assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr
        tried("closed output", 1)

    @pytest.mark.parametrize("reader", often(dict.fromkeys(READERS), READERS[:2]))
    @pytest.mark.parametrize("line", often(dict.fromkeys(LINES), LINES[:1]))
    def test_a_pipe_that_nobody_reads(self, folder: Path, line: str, reader: str, tried: Tried) -> None:
        ended = shell(f"{line} {reader}", folder, {})
        assert ended.returncode in (0, OUTPUT_CLOSED), ended
        assert not any(word in ended.stderr for word in ("Traceback", "Exception ignored", "interrupted")), ended
        assert ended.returncode or reader != READERS[0]
        tried("closed output", 1)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
    @pytest.mark.parametrize("line", often(dict.fromkeys(LINES[:3]), LINES[:1]))
    def test_a_full_disk(self, folder: Path, line: str, tried: Tried) -> None:
        ended = shell(f"{line} > /dev/full", folder, {})
        assert ended.returncode == USER_ERROR and "No space left on device" in ended.stderr, ended
        assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
        tried("closed output", 1)
