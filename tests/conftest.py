"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
