"""A torch that works, a device that is there, the cores and memory of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import torchvision  # noqa: F401  imported whole before its parts are replaced

from seg_transfer.errors import UserError
from seg_transfer.util import environment


def test_an_unfitting_pair_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    """A stand-in for a CPU-only torch beside a torchvision built for another: what it raises on import."""
    site = tmp_path / "site"
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text("")
    (site / "torchvision").mkdir()
    (site / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist\\nmore')\n"
    )
    command = ["plan", str(tmp_path), "-w", str(tmp_path / "work"), "--encoder", "timm/resnet10t"]
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "ball": 1}}')
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    done = subprocess.run(
        [sys.executable, "-m", "seg_transfer", *command],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "torchvision cannot be imported: operator torchvision::nms does not exist" in done.stderr
    assert "pip install torch torchvision" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "cpu:0", "", "mps:1"])
def test_unknown_devices_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown device"):
        environment.resolve_device(text)


def test_auto_takes_the_cpu_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert environment.resolve_device("auto") == "cpu"
    assert environment.resolve_device("cpu") == "cpu"
    with pytest.raises(UserError, match=r"cuda: .*CUDA"):
        environment.resolve_device("cuda")
    with pytest.raises(UserError, match="no MPS"):
        environment.resolve_device("mps")


def test_without_a_driver_auto_does_not_ask_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "check_torch", None)
    monkeypatch.setattr(environment.platform, "system", lambda: "Linux")
    monkeypatch.setattr(environment, "_DRIVERS", [tmp_path / "nvidia0"])
    assert environment.resolve_device("auto") == "cpu"
    (tmp_path / "nvidia0").touch()
    with pytest.raises(TypeError):
        environment.resolve_device("auto")


def test_only_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert environment.resolve_device("auto") == "cuda:0"
    assert environment.resolve_device("cuda") == "cuda:0"
    assert environment.resolve_device("cuda:1") == "cuda:1"
    with pytest.raises(UserError, match="there are 2 CUDA device"):
        environment.resolve_device("cuda:2")


def test_a_containers_limits_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_CGROUP", tmp_path)
    assert environment.host_memory() == psutil.virtual_memory().total
    unlimited = environment.cores()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert (environment.host_memory(), environment.cores()) == (psutil.virtual_memory().total, unlimited)
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert (environment.host_memory(), environment.cores()) == (10**9, 1)
    assert environment.device_memory("cpu") == 5 * 10**8
    (tmp_path / "large.nii").write_bytes(b"")
    os.truncate(tmp_path / "large.nii", 10**9)
    assert environment.case_workers(None, [tmp_path / "large.nii"]) == 1
    assert [environment.case_workers(wanted, []) for wanted in (0, 5)] == [0, 5]
    assert [environment.training_workers("cpu", wanted) for wanted in (None, 0, 2)] == [0, 0, 2]


@pytest.mark.parametrize(
    ("full", "reduced", "gain"),
    [([0.04] * 5, [0.01] * 5, 4.0), ([0.02] * 5, [0.4] * 2, 0.05), ([3.0] * 2, [4.0, 6.0], 0.75)],
)
def test_the_gain_of_bfloat16_is_a_ratio_of_times(
    monkeypatch: pytest.MonkeyPatch, full: list[float], reduced: list[float], gain: float
) -> None:
    """The clock's seconds of each repeat; long ones are not repeated more than twice."""
    ticks = iter([time for taken in (*full, *reduced) for time in (0.0, taken)])
    monkeypatch.setattr(environment.time, "process_time", lambda: next(ticks))
    threads = torch.get_num_threads()
    assert environment._bfloat16_gain("cpu") == pytest.approx(gain)
    assert next(ticks, None) is None
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("lacks", "text"), [(True, "AVX2 without bfloat16, "), (False, "AVX2, ")])
def test_a_machine_is_named_with_the_instructions_that_decide_its_speed(
    lacks: bool, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(environment, "lacks_bfloat16", lambda: lacks)
    assert f" with {text}" in environment.machine_text()
