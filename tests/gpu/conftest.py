"""The device of the tests of this folder: the first CUDA device, or what ``--device`` names."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; try the tests themselves with --device cpu")
    return name


@pytest.fixture
def cuda(device: str) -> str:
    """The device of tests that only CUDA can pass or fail."""
    if not device.startswith("cuda"):
        pytest.skip("about the memory of a CUDA device")
    return device
