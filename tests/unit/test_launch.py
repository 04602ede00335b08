"""Who starts the processes of a training, and which of them this one is."""

from __future__ import annotations

from pathlib import Path

import pytest

import seg_transfer
from seg_transfer.errors import UserError
from seg_transfer.training.launch import Place, joined, place_of

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "3"}


@pytest.mark.parametrize(
    ("devices", "environment", "place"),
    [
        (None, {}, None),
        (1, {}, None),
        (2, {}, Place("segtl", 0, 2)),
        (2, {"LOCAL_RANK": "1"}, Place("segtl", 1, 2)),
        (None, {"LOCAL_RANK": "1"}, None),
        (None, TORCHRUN, Place("torchrun", 5, 4, 2)),
        (4, TORCHRUN, Place("torchrun", 5, 4, 2)),
        (None, TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, None),
        (2, SLURM, Place("slurm", 3, 2, 2)),
        (None, SLURM, None),
        (2, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Place("segtl", 0, 2)),
    ],
)
def test_the_place_of_a_process(devices: int | None, environment: dict[str, str], place: Place | None) -> None:
    assert place_of(devices, environment) == place
    assert place is None or place.size == place.here * place.machines


@pytest.mark.parametrize(
    ("devices", "environment", "message"),
    [
        (2, TORCHRUN, r"torchrun has started 4 process\(es\) on this machine, not 2"),
        (4, SLURM, r"Slurm has started 4 tasks on 2 machine\(s\)\n.*--ntasks-per-node 4"),
    ],
)
def test_another_number_of_processes_is_refused(devices: int, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        place_of(devices, environment)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", "cuda:1 is one device, not 9999"),
        ("cuda:0", "9999 devices of kind cuda"),
        ("mps", "there are 1"),
        ("cpu", "9999 processes on a machine of"),
    ],
)
def test_devices_that_are_not_there(device: str, message: str) -> None:
    """None of the processes is started: so many would take all memory."""
    with pytest.raises(UserError, match=message), joined(9999, device, []):
        pass


def test_a_disk_of_one_machine_cannot_serve_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--scratch: a folder of one machine cannot serve 2"):
        seg_transfer.train("0", work=tmp_path, scratch=tmp_path, device="cpu")
