"""What all tests of the pipeline share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_clusters import Processes
from PIL import Image


@pytest.fixture(scope="module", autouse=True)
def quick_plots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write an empty PNG for plots of training and overlays of validation: they are half of a tiny training's time.

    Modules marked ``real_plots`` draw them, and so does every command that runs in a process of its own.
    """
    from seg_transfer.training import loop
    from seg_transfer.workflow import validate

    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("real_plots") is None:
            for module, name in ((loop, "draw_progress"), (validate, "save_overlay")):
                patch.setattr(module, name, lambda path, *_, **__: Image.new("L", (8, 8)).save(path))
        yield


@pytest.fixture(scope="module", autouse=True)
def few_batches() -> Iterator[None]:
    """Estimate BatchNorm's statistics anew on 2 batches: on 20 they take longer than the steps of a tiny training."""
    from seg_transfer.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RECALIBRATION_BATCHES", 2)
        yield


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A cluster that a test starts; its processes end with the test."""
    started = Processes(tmp_path)
    yield started
    started.stop()
