"""Networks without values: the same names and shapes as with them; what is not on "meta" keeps its values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seg_transfer.transfer.on_meta import on_meta
from seg_transfer.transfer.stages import load_stages


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "convnext_atto"])
def test_names_shapes_and_types_are_those_of_a_network_with_values(name: str) -> None:
    with on_meta():
        blank = load_stages("timm", name, 2)
    filled = load_stages("timm", name, 2)
    assert [(stage.channels, stage.stride) for stage in blank] == [(stage.channels, stage.stride) for stage in filled]
    for one, other in zip(blank, filled, strict=True):
        tensors, expected = one.modules.state_dict(), other.modules.state_dict()
        assert all(tensor.is_meta for tensor in tensors.values())
        assert {key: (each.shape, each.dtype) for key, each in tensors.items()} == {
            key: (each.shape, each.dtype) for key, each in expected.items()
        }


def test_tensors_elsewhere_are_set_and_the_generator_is_not_used() -> None:
    before = torch.random.get_rng_state()
    with on_meta():
        nn.Linear(3, 3)
        tensor = torch.zeros(3, device="cpu").fill_(2).mul_(2)
        nn.init.constant_(weight := torch.zeros(3, device="cpu"), 5.0)
    assert tensor.tolist() == [4, 4, 4] and weight.tolist() == [5, 5, 5]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.zeros(1).device.type == "cpu"
