"""A command that is told to end: exit code 130, one message, no process and no half file left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from seg_transfer import __main__ as entry
from seg_transfer.data.formats import write_volume
from seg_transfer.data.geometry import Grid

KIND = "signals"
CHILDREN = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(not CHILDREN.is_dir(), reason="child processes are found in /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases that take a second each to check."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    image = generator.integers(0, 1000, (160, 160, 160), dtype=np.int16)
    label = (image > 990).astype(np.uint8)
    grid = Grid(image.shape, np.eye(4))
    write_volume(root / "images" / "case_0.nii.gz", image, grid)
    write_volume(root / "labels" / "case_0.nii.gz", label, grid)
    for index in range(1, 4):
        for folder in ("images", "labels"):
            shutil.copy(root / folder / "case_0.nii.gz", root / folder / f"case_{index}.nii.gz")
    return root


def children(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()] if path.is_file() else []


def descendants(process: int) -> list[int]:
    return [each for child in children(process) for each in (child, *descendants(child))]


def started(*command: str) -> subprocess.Popen[str]:
    """A command that has begun to work: one of its processes has a worker."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while len(descendants(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def assert_ended(process: subprocess.Popen[str], workers: list[int], work: Path) -> None:
    out, err = process.communicate(timeout=100)
    assert process.returncode == entry.INTERRUPTED, err
    assert "interrupted; what is finished is kept" in err and "Traceback" not in out + err
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").is_dir() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").is_dir()]
    assert not [path for path in work.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_command_and_its_workers(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    work = tmp_path / "work"
    process = started(sys.executable, "-m", "seg_transfer", "plan", str(data), "-w", str(work), "--workers", "1")
    workers = descendants(process.pid)
    process.send_signal(number)
    assert_ended(process, workers, work)


def test_the_first_process_of_a_container_ends_too(data: Path, tmp_path: Path) -> None:
    """The kernel keeps signals without a handler from process 1."""
    isolated = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no process namespaces")
    work = tmp_path / "work"
    inside = [sys.executable, "-m", "seg_transfer", "plan", str(data), "-w", str(work), "--workers", "1"]
    process = started(*isolated, *inside)
    while len(descendants(process.pid)) < 3 and process.poll() is None:
        time.sleep(0.05)
    first, *workers = descendants(process.pid)
    os.kill(first, signal.SIGTERM)
    assert_ended(process, workers, work)


def test_an_interruption_while_importing_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handled: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", handled.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)  # whatever runs the tests may ignore some
    slow = ModuleType("seg_transfer.cli.app")

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    slow.__getattr__ = interrupted  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "seg_transfer.cli.app", slow)
    assert entry.main() == entry.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    assert set(handled) == {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a command under nohup."""
    handled: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", handled.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    quick = ModuleType("seg_transfer.cli.app")
    quick.main = lambda: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "seg_transfer.cli.app", quick)
    assert entry.main() == 0 and not handled
