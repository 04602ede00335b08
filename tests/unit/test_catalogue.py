"""The catalogue answers without torch and agrees with what is measured."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from seg_transfer.catalogue.encoders import ENCODERS, WEIGHTS_FILE, entry, imagenet_cached, volume_encoders
from seg_transfer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_every_encoder_is_described_stage_by_stage():
    assert entry("resnet18").channels == (64, 64, 128, 256, 512)
    assert entry("resnet50").channels == (64, 256, 512, 1024, 2048)
    assert entry("vgg16_bn").channels == (128, 256, 512, 512, 512)
    assert entry("alexnet").channels == (64, 192, 256, 256)
    assert entry("resnet34").strides == (2, 4, 8, 16, 32)
    assert entry("convnext_tiny").strides == entry("alexnet").strides == (4, 8, 16, 32)
    for known in ENCODERS.values():
        assert all(low * 2 == high for low, high in pairwise(known.strides))
        assert len(known.channels) == len(known.strides)
        assert set(known.costs) == ({"flat", "deep", "strided"} if known.volumes else {"flat"})
        for costs in known.costs.values():
            assert {len(column) for column in vars(costs).values()} == {len(known.strides)}
        assert sum(known.costs["flat"].parameters) == known.parameters


def test_what_cannot_be_had_of_an_encoder_is_on_record():
    assert not entry("inception_v3").volumes and "inception_v3" not in volume_encoders()
    assert entry("alexnet").volumes and "alexnet" in volume_encoders()
    assert not entry("convnext_tiny").batchnorm and not entry("alexnet").batchnorm
    assert entry("resnet18").batchnorm and entry("densenet121").batchnorm
    for known in ENCODERS.values():
        assert (known.library == "torchvision") == (not known.repository) == bool(known.file)


def test_where_weights_come_from_is_on_record():
    assert entry("resnet50").licence == "apache-2.0"
    assert entry("vgg16_bn").repository == "timm/vgg16_bn.tv_in1k"
    assert entry("inception_v3").mean == (0.5, 0.5, 0.5)
    alexnet = entry("alexnet")
    assert (alexnet.library, alexnet.revision) == ("torchvision", "AlexNet_Weights.IMAGENET1K_V1")
    assert alexnet.file == "alexnet-owt-7be5be79.pth"


def test_unknown_encoder_lists_those_that_exist():
    with pytest.raises(UserError, match="resnet19") as raised:
        entry("resnet19")
    assert ", ".join(ENCODERS) in str(raised.value)


def test_cache_look_up_sees_a_cached_file_and_loads_no_torch(tmp_path):
    script = (
        "import sys; from seg_transfer.catalogue.encoders import imagenet_cached;"
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


def test_weights_of_no_hub_are_not_looked_up():
    assert not imagenet_cached("alexnet")


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_committed_table_is_what_is_measured_today(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import encoder_table

    assert set(encoder_table.SOURCES) == set(ENCODERS)
    known, fresh = entry(name), encoder_table.describe(name)
    for kind, costs in fresh.pop("costs").items():
        for column, committed in vars(known.costs[kind]).items():
            assert tuple(costs[column]) == pytest.approx(committed, rel=0.01), (kind, column)
    for column, value in fresh.items():
        assert getattr(known, column) == (tuple(value) if isinstance(value, list) else value), column
