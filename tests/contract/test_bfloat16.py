"""3D convolutions in bfloat16 against float32, on the shapes that plans use and on maps one voxel wide.

torch's were reported wrong without a message where the innermost output is one wide and the stride above 1, on CPUs
with AMX (pytorch issue 169688).
"""

from __future__ import annotations

import pytest
import torch
from test_depthwise import gradients

from seg_transfer.transfer.inflate import SliceConv3d

pytestmark = pytest.mark.usefixtures("one_thread")
NARROW = [(4, 6, 1), (4, 6, 2), (3, 1, 1), (1, 2, 2)]
PLANNED = [(20, 28, 20), (5, 7, 5)]
RELATIVE_ERROR = 0.02
"""Of 8 bits of mantissa, over sums of many products; a wrong result is off by about 1."""


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("sizes", NARROW + PLANNED, ids=str)
@pytest.mark.parametrize(("channels", "groups"), [(16, 1), (32, 1), (32, 32)])
def test_values_and_gradients_are_those_of_float32(sizes, stride, channels, groups, channels_last):
    torch.manual_seed(0)
    module = SliceConv3d(channels, channels, 3, stride, padding=(0, 1, 1), groups=groups, bias=False)
    x = torch.randn(2, channels, *sizes)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        module = module.to(memory_format=torch.channels_last_3d)
    expected = gradients(module, x)
    found = gradients(module, x, reduced=True)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= RELATIVE_ERROR * other.norm()
