"""Fixtures every test may use, and the table of faults that were tried."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

gc.disable()  # while the tests are collected: modules stay, and to look through them again and again takes seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda:0", help="device of the tests that `-m gpu` runs")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a sixth of the time a test waits for processes that it has started."""
    from seg_transfer.util.environment import cores

    return cores() + 1


def pytest_collection_finish() -> None:
    """Leave what has been imported out of the garbage collector's rounds: they were an eighth of the tests' time."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # so that libraries can clean up


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets beside a developer's checkout; absent on a stranger's machine."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real data sets (../shared) are not on this machine")
    return SHARED


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many tiny tensors: more threads only wait for each other, on a busy machine for long."""
    import torch  # most tests need none of it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Counts so many faults of a kind for the table that ends the tests' output: they survived if the test passes."""
    return lambda kind, count: record_property("tried", (kind, count))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted: dict[str, Counter[str]] = {"tried": Counter(), "survived": Counter()}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "tried":
                    counted["tried"][value[0]] += value[1]
                    counted["survived"][value[0]] += value[1] * report.passed
    for kind, count in sorted(counted["tried"].items()):
        terminalreporter.write_line(f"{kind}: tried {count}, survived {counted['survived'][kind]}")
