"""``bench/README.md`` names every script of ``bench/``, and the commands in it can be typed."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
SCRIPTS = sorted(path for path in BENCH.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
TOOLS = sorted(path for path in (ROOT / "tools").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
README = (BENCH / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    row[0]: row[1] for row in re.findall(r"^\| `(\w+\.py)` \|.*\| `(python bench/[^`]+)` \|", README, re.MULTILINE)
}


def help_of(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``--help`` prints, in this process: importing torch once is enough."""
    monkeypatch.setattr(sys, "argv", [script.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script.stem).main()
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_every_script_is_listed() -> None:
    assert sorted(COMMANDS) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_listed_commands_have_known_flags(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python, path, *given = shlex.split(COMMANDS[script.name])
    assert (python, path) == ("python", f"bench/{script.name}")
    known = set(re.findall(r"--[a-z][a-z-]*", help_of(script, monkeypatch, capsys)))
    assert {flag for flag in given if flag.startswith("--")} <= known


@pytest.mark.parametrize("tool", TOOLS, ids=lambda path: path.name)
def test_tools_have_help(tool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.stem in help_of(tool, monkeypatch, capsys)


def test_results_are_where_the_table_says() -> None:
    for pattern in re.findall(r"`(results/[^`]+)`", README):
        assert list(BENCH.glob(pattern)), pattern
