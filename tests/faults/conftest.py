"""Commands in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest, tried: Tried) -> None:
    """Counts each test of a module that names its ``KIND`` of faults as one."""
    if (kind := getattr(request.module, "KIND", None)) is not None:
        tried(kind, 1)
