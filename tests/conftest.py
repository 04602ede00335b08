"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets beside a developer's checkout; absent on a stranger's machine."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real data sets (../shared) are not on this machine")
    return SHARED
