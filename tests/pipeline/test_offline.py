"""No connection is made: with ``--offline`` never, without it not for what is on this machine."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from made_balls import make_dataset
from safetensors.torch import save_file

from seg_transfer.catalogue.encoders import entry
from seg_transfer.cli.app import main
from seg_transfer.transfer.fetch import OFFLINE
from seg_transfer.workflow.work_folder import WorkFolder

pytestmark = pytest.mark.usefixtures("one_thread")
RUNNING = ["--device", "cpu", "--workers", "0", "-q"]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every try to look up or to reach another machine; all fail."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise OSError("connections are forbidden in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; the environment is put back when the test ends."""
    monkeypatch.setenv(OFFLINE, "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "hub"


@pytest.mark.parametrize("weights", [["--weights", "imagenet", "--offline"], ["--weights", "auto"]], ids=" ".join)
def test_plan_and_train_open_no_socket(
    weights: list[str], tmp_path: Path, cache: Path, connections: list[object]
) -> None:
    known = entry("resnet18")
    folder = cache / f"models--{known.repository.replace('/', '--')}" / "snapshots" / known.revision
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), folder / "model.safetensors")
    data, work = make_dataset(tmp_path / "data", cases=2), WorkFolder(tmp_path / "work")
    options = ["--config", "2d", "--encoder", "resnet18", "--epochs", "1", "--folds", "2", "--memory", "1GB"]
    assert main(["plan", str(data), "-w", str(work.path), *options, *weights, *RUNNING]) == 0
    content = json.loads(work.plan.read_text())
    assert content["model"]["weights"]["source"] == "imagenet"
    content["recipe"] |= {"steps_per_epoch": 1, "batch_size": 2}
    work.plan.write_text(json.dumps(content))
    offline = weights[2:]
    assert main(["train", "0", "-w", str(work.path), *offline, *RUNNING]) == 0
    assert bool(os.environ[OFFLINE]) == bool(offline)
    assert work.plan_folder(work.load_plan()).run(0).finished
    assert connections == []


def test_offline_refuses_at_plan_time_what_is_not_here(
    tmp_path: Path, cache: Path, connections: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    arguments = ["plan", str(data), "-w", str(tmp_path / "work"), "--encoder", "resnet34", "--weights", "imagenet"]
    assert main([*arguments, "--offline", *RUNNING]) == 2
    said = capsys.readouterr().err
    assert "--weights: the ImageNet weights of resnet34 are not on this machine, and --offline forbids" in said
    assert "segtl encoders fetch resnet34" in said
    assert not (tmp_path / "work").exists()
    assert connections == []


def test_a_strategy_on_random_weights_is_said_to_be_a_control(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, work = make_dataset(tmp_path / "data", cases=2), tmp_path / "work"
    arguments = ["plan", str(data), "-w", str(work), "--config", "2d", "--memory", "1GB", "--strategy", "frozen"]
    assert main([*arguments, "--weights", "none", *RUNNING]) == 0
    warning = "warning: --strategy frozen: the encoder's weights are random, so that nothing is transferred"
    assert warning in capsys.readouterr().err
    assert main([*arguments, "--weights", "bundled", *RUNNING]) == 0
    assert "random" not in capsys.readouterr().err
