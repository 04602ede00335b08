"""Commands load no module that they do without: torch takes two seconds, timm with torchvision three more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work

import seg_transfer
from seg_transfer.data.dataset import find_dataset
from seg_transfer.util import environment

HEAVY = {
    "torch",
    "torch._dynamo",
    "torchvision",
    "timm",
    "monai",
    "lightning_fabric",
    "sklearn",
    "matplotlib",
    "blosc2",
    "SimpleITK",
    "surface_distance",
    "jinja2",
    "huggingface_hub",
    "onnx",
    "highdicom",
    "tensorboard",
}
PROGRAM = """
import contextlib, io, json, sys
from seg_transfer.cli.app import main
before, done = set(), []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        code = main([*command, "-q"])
    done.append([code, sorted(set(sys.modules) - before)])
    before |= set(sys.modules)
print(json.dumps(done))
"""


def loaded(folder: Path, *commands: tuple[object, ...]) -> list[set[str]]:
    """The heavy modules that each of some commands, in one process, loads beyond those before it."""
    given = json.dumps([[str(argument) for argument in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    codes, modules = zip(*json.loads(done.stdout), strict=True)
    assert not any(codes), done.stderr
    return [HEAVY & set(names) for names in modules]


def test_what_needs_no_network_loads_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the first plan on a machine, where speeds have to be measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment.bfloat16_gain.cache_clear()  # an earlier test's measurement, kept in this process alone
    data = make_dataset(tmp_path / "data")
    seg_transfer.plan(data, work=tmp_path / "first", device="auto", config="3d", workers=0)
    work = ("-w", tmp_path / "second")
    expected = {
        ("check", data): set(),
        ("plan", data, "--device", "auto", "--config", "3d", *work): set(),
        ("status", *work): set(),
        ("preprocess", *work): {"blosc2"},
        ("evaluate", data / "labelsTr", data / "labelsTr"): {"surface_distance"},
        ("inspect", "case_0", *work): {"matplotlib"},
        ("report", *work): {"jinja2"},
    }
    assert loaded(tmp_path, *expected) == list(expected.values())


def test_the_default_encoder_needs_neither_timm_nor_monai_nor_sklearn(tmp_path: Path) -> None:
    """Nor does a prediction load torch's compiler, which a training does."""
    data = make_dataset(tmp_path / "data", cases=2)
    work = make_work(tmp_path / "work", data)
    add_run(work, ball_plan(find_dataset(data), "3d", encoder="tf_efficientnet_lite0"), folds=(0,))
    image = data / "imagesTr" / "case_0_0000.nii.gz"
    new = tmp_path / "new"
    seg_transfer.plan(data, work=new, config="2d", epochs=1, device="cpu", workers=0)
    edited = json.loads((new / "plan.json").read_text())
    edited["recipe"] |= {"steps_per_epoch": 1, "batch_size": 2}
    (new / "plan.json").write_text(json.dumps(edited))
    expected = {
        ("summary", "-w", work.path): set(),
        ("predict", "-w", work.path, "-i", image, "-o", tmp_path / "out"): {"torch"},
        ("train", 0, "-w", new, "--workers", 0, "--device", "cpu"): {
            *("torch._dynamo", "lightning_fabric", "blosc2", "matplotlib", "surface_distance")
        },
    }
    found = loaded(tmp_path, *expected)
    found[-1] -= {"tensorboard"}  # where it is installed
    assert found == list(expected.values())
    assert (tmp_path / "out" / "case_0.nii.gz").is_file()
