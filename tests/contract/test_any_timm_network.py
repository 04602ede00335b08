"""Networks of timm without a row in the catalogue: described where they are used, or refused with the reason."""

from __future__ import annotations

import math

import pytest
import torch

from seg_transfer.catalogue.encoders import DESCRIBED, ENCODERS, entry
from seg_transfer.errors import UserError
from seg_transfer.transfer.describe import describe
from seg_transfer.transfer.encoder import Encoder

pytestmark = pytest.mark.usefixtures("one_thread")
USABLE = {"timm/resnet10t": True, "timm/ghostnet_100": True, "timm/hgnetv2_b1": False}
"""Network -> whether it converts to 3D."""


@pytest.mark.parametrize(("name", "volumes"), USABLE.items())
def test_a_convolutional_network_becomes_an_encoder(name, volumes):
    known = describe(name)
    assert (known.library, known.library_name, known.volumes) == ("timm", name.removeprefix("timm/"), volumes)
    assert known.licence and known.repository.startswith("timm/")
    made = Encoder(name, channels=1)
    with torch.no_grad():
        maps = made.eval()(torch.randn(1, 1, 1, 65, 97))
    for each, channels, stride in zip(maps, known.channels, known.strides, strict=True):
        assert each.shape == (1, channels, math.ceil(65 / stride), math.ceil(97 / stride))
        assert torch.isfinite(each).all()


def test_its_costs_are_those_that_a_row_would_have():
    known, row = describe("timm/resnet18"), entry("resnet18")
    for kind in ("flat", "deep", "strided"):
        assert known.costs[kind] == row.costs[kind]
    assert (known.mean, known.std, known.parameters) == (row.mean, row.std, row.parameters)
    assert (known.channels, known.strides, known.depthwise) == (row.channels, row.strides, row.depthwise)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("timm/no_such_net", "timm has no network 'no_such_net'"),
        ("timm/vit_tiny_patch16_224", "it gives no maps"),
        ("timm/swin_tiny_patch4_window7_224", "cannot be an encoder"),
        ("no_such_net", "unknown encoder 'no_such_net'"),
    ],
)
def test_others_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason) as error:
        describe(name, "--encoder")
    assert error.value.where == "--encoder" and error.value.hint
    assert name not in ENCODERS and name not in DESCRIBED
