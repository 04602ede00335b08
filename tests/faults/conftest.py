"""Commands in processes of their own, and the table of what was tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Commands, Tried


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    if not Path("/proc/self/stat").is_file():
        pytest.skip("processes are looked up in /proc")
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """Counts faults of a kind for the table that ends the tests' output: they survived if the test passes."""
    return lambda kind, count: record_property("tried", (kind, count))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted: dict[str, Counter[str]] = {"tried": Counter(), "survived": Counter()}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in getattr(report, "user_properties", ()):
                if name == "tried" and report.when == "call":
                    counted["tried"][value[0]] += value[1]
                    counted["survived"][value[0]] += value[1] * report.passed
    for kind, count in sorted(counted["tried"].items()):
        terminalreporter.write_line(f"{kind}: tried {count}, survived {counted['survived'][kind]}")
