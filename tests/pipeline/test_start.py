"""Commands load no module that they do without: torch takes two seconds, timm with torchvision three more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from made_balls import make_dataset
from made_work import add_run, ball_plan, make_work

from seg_transfer.data.dataset import find_dataset

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
}
PROGRAM = """
import contextlib, io, json, sys
from seg_transfer.cli.app import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def loaded(folder: Path, *arguments: object) -> set[str]:
    """The heavy modules that a command loads."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments), "-q"],
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout)
    assert code == 0, done.stderr
    return HEAVY & set(modules)


def test_planning_without_evidence_loads_no_torch(tmp_path: Path) -> None:
    """But once on a machine, where speeds have to be measured."""
    data = make_dataset(tmp_path / "data")
    plan = ("plan", data, "--device", "auto", "--config", "3d", "-w")
    loaded(tmp_path, *plan, tmp_path / "first")
    assert loaded(tmp_path, *plan, tmp_path / "second") == set()


def test_evaluating_loads_no_torch(tmp_path: Path) -> None:
    labels = make_dataset(tmp_path / "data") / "labelsTr"
    assert loaded(tmp_path, "evaluate", labels, labels) == set()


def test_predicting_with_the_default_encoder_loads_neither_timm_nor_the_compiler(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", cases=2)
    work = make_work(tmp_path / "work", data)
    add_run(work, ball_plan(find_dataset(data), "3d", encoder="tf_efficientnet_lite0"), folds=(0,))
    image = data / "imagesTr" / "case_0_0000.nii.gz"
    assert loaded(tmp_path, "predict", "-w", work.path, "-i", image, "-o", tmp_path / "out") == {"torch"}
    assert (tmp_path / "out" / "case_0.nii.gz").is_file()
