"""The catalogue answers without torch and agrees with what is measured."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from seg_transfer.catalogue import ENCODERS, WEIGHTS_FILE, entry, imagenet_cached
from seg_transfer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_the_four_encoders_are_described_level_by_level():
    assert list(ENCODERS) == ["resnet18", "resnet34", "resnet50", "vgg16_bn"]
    assert entry("resnet18").channels == (64, 64, 128, 256, 512)
    assert entry("resnet50").channels == (64, 256, 512, 1024, 2048)
    assert entry("vgg16_bn").channels == (128, 256, 512, 512, 512)
    assert {known.strides for known in ENCODERS.values()} == {(2, 4, 8, 16, 32)}
    assert entry("resnet50").licence == "apache-2.0"
    assert entry("vgg16_bn").repository == "timm/vgg16_bn.tv_in1k"
    for known in ENCODERS.values():
        assert len(known.saved_elements) == len(known.flops) == len(known.parameters_per_level) == 5
        assert sum(known.parameters_per_level) == known.parameters


def test_unknown_encoder_lists_those_that_exist():
    with pytest.raises(UserError, match="resnet19") as raised:
        entry("resnet19")
    assert "resnet18, resnet34, resnet50, vgg16_bn" in str(raised.value)


def test_cache_look_up_sees_a_cached_file_and_loads_no_torch(tmp_path):
    script = (
        "import sys; from seg_transfer.catalogue import imagenet_cached;"
        "print(imagenet_cached('resnet34'), 'torch' in sys.modules, 'timm' in sys.modules)"
    )

    def ask() -> str:
        environment = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": ""}
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert ask() == "False False False"
    repository = tmp_path / "hub" / "models--timm--resnet34.a1_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    (repository / "snapshots" / "0123abc").mkdir(parents=True)
    (repository / "snapshots" / "0123abc" / WEIGHTS_FILE).write_bytes(b"x")
    assert ask() == "True False False"


def test_unknown_encoder_is_not_looked_up():
    with pytest.raises(UserError):
        imagenet_cached("resnet19")


def test_committed_table_is_what_is_measured_today():
    specification = importlib.util.spec_from_file_location("encoder_table", ROOT / "bench" / "encoder_table.py")
    table = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(table)
    known, fresh = entry("resnet18"), table.describe("resnet18")
    assert tuple(fresh["saved_elements"]) == pytest.approx(known.saved_elements, rel=0.01)
    assert tuple(fresh["flops"]) == pytest.approx(known.flops, rel=0.01)
    for name in ("channels", "strides", "mean", "std", "parameters_per_level"):
        assert tuple(fresh[name]) == getattr(known, name)
    for name in ("licence", "repository", "revision", "parameters"):
        assert fresh[name] == getattr(known, name)
