"""What all tests of the pipeline share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_bucket import ENVIRONMENT, Bucket
from made_clusters import Processes
from PIL import Image

from seg_transfer.util.addresses import CACHE


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


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of an S3 server."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    started = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def bucket(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Bucket]:
    """A bucket of its own for each test."""
    boto3 = pytest.importorskip("boto3", reason="moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="the extra remote is not installed")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": server, CACHE: str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[-60:].strip("-")
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    yield Bucket(client, name)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The cases whose label maps were written since the last call."""
    from seg_transfer.inference import one_case

    cases: list[str] = []
    write = one_case.write_volume

    def noted(path: Path, *arguments: object) -> None:
        cases.append(path.name.partition(".")[0])
        write(path, *arguments)  # type: ignore[arg-type]

    def since_last() -> list[str]:
        found = sorted(cases)
        cases.clear()
        return found

    monkeypatch.setattr(one_case, "write_volume", noted)
    return since_last
