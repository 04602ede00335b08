"""Trackers: MLflow and Weights & Biases get a run's figures; what is missing is said before training."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from seg_transfer.errors import UserError
from seg_transfer.options.train_options import RunOptions
from seg_transfer.training.history import Row
from seg_transfer.training.run_folder import RunFolder
from seg_transfer.training.trackers import Trackers, check_trackers


def a_row(epoch: int, dice: float) -> Row:
    return Row(
        epoch=epoch,
        step=10 * epoch,
        seconds=60.0 * epoch,
        progress=epoch / 4,
        loss=1.0,
        validation_loss=None,
        dice={"liver (left)": dice, "spleen": None},
        rates={"decoder": 1e-3},
        stages={"0": "frozen"},
        skipped=0,
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "secret" / "2d-made" / "fold_0", 0)
    made.path.mkdir(parents=True)
    return made


def test_mlflow_gets_every_figure_and_a_resumed_run_goes_on(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra [tracking] is not installed")
    address = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_trackers(("mlflow",))
    for epochs in ((1, 2), (3,)):
        trackers = Trackers(("mlflow",), run, 0)
        for epoch in epochs:
            trackers.add(a_row(epoch, epoch / 10))
        trackers.close()
    client = mlflow.MlflowClient(tracking_uri=address)
    (found,) = client.search_runs([client.get_experiment_by_name("segtl").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "2d-made/fold_0"
    history = client.get_metric_history(found.info.run_id, "dice liver _left_")
    assert [(each.step, each.value) for each in history] == [(10, 0.1), (20, 0.2), (30, 0.3)]
    assert set(found.data.metrics) == {"dice", "dice liver _left_", "loss", "progress", "rate decoder"} | {
        *("seconds", "skipped")
    }
    assert "secret" not in str(found.to_dictionary())
    assert not run.tensorboard.exists()


def test_weights_and_biases_gets_every_figure(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra [tracking] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(("wandb",))
    trackers = Trackers(("wandb",), run, 0)
    trackers.add(a_row(1, 0.5))
    trackers.close()
    (written,) = run.wandb.glob("offline-run-*/*.wandb")
    names, end = (b"dice/liver (left)", b"rate/decoder", b"2d-made/fold_0"), time.monotonic() + 60
    while not all(name in (content := written.read_bytes()) for name in names):  # its own process writes it
        assert time.monotonic() < end, content
        time.sleep(0.1)
    assert b"secret" not in content
    run.clear()
    assert not run.wandb.exists()


def test_what_is_missing_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    with pytest.raises(UserError, match="no server of MLflow is named"):
        check_trackers(("mlflow",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--track wandb needs the package wandb.*\n.*segtl\[tracking\]"):
        check_trackers(("wandb",))
    check_trackers(None)
    with pytest.raises(UserError, match="--track"):
        RunOptions(track="mlflow,excel")
    assert RunOptions(track="mlflow,wandb").track == ("mlflow", "wandb")


def test_a_tracker_that_fails_does_not_end_the_training(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from seg_transfer.training import trackers as module

    class Gone:
        def __init__(self, _: RunFolder) -> None:
            pass

        def add(self, _: Row) -> None:
            raise ConnectionError("the server is gone")

    monkeypatch.setitem(module._REMOTE, "mlflow", Gone)
    trackers = Trackers(("mlflow",), run, 0)
    with caplog.at_level(logging.WARNING):
        trackers.add(a_row(1, 0.5))
        trackers.add(a_row(2, 0.5))
    trackers.close()
    assert caplog.text.count("the server is gone") == 1
