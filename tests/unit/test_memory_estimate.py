"""The planner's memory estimate against what autograd saves, on networks that did not make the catalogue's table."""

from __future__ import annotations

import memory_estimate
import pytest
from made_plans import model_plan

from seg_transfer.catalogue.encoders import entry
from seg_transfer.inference.memory import counted_bytes, window_bytes
from seg_transfer.planning.cost import saved_bytes

CASES = {
    "basic": ("resnet18", "2d", "finetune", (1, 64, 96), 4),
    "frozen": ("resnet34", "2d", "frozen", (1, 64, 96), 4),
    "bottleneck": ("resnet50", "2d", "partial", (1, 96, 96), 4),
    "stack": ("efficientnet_b0", "2.5d", "scratch", (5, 96, 64), 4),
    "stem of stride 4": ("convnext_tiny", "2d", "partial", (1, 64, 96), 3),
    "concatenations": ("densenet121", "2.5d", "finetune", (3, 96, 64), 4),
    "volume": ("resnet18", "3d", "finetune", (8, 24, 24), 3, (2, 2, 1)),
    "flat volume": ("regnety_016", "3d", "partial", (8, 32, 48), 4, (1, 1, 2, 2)),
    "depthwise volume": ("mobilenetv3_large_100", "3d", "scratch", (8, 32, 32), 4, (1, 2, 2, 1)),
}


SLOW = ("bottleneck", "stack", "concatenations", "flat volume")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)
def test_what_a_step_keeps_is_estimated_within_a_quarter(case):
    made = memory_estimate.Case(*CASES[case])
    assert saved_bytes(made.network_size(), 1) == pytest.approx(memory_estimate.measured(made), rel=0.25)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "encoder", ["tf_efficientnet_lite0", "convnext_tiny", pytest.param("vgg16_bn", marks=pytest.mark.slow)]
)
def test_no_network_needs_more_for_a_window_than_is_taken_uncounted(encoder):
    stages = len(entry(encoder).channels)
    widths = (32, 64, 128, 256, 320)[:stages]
    model = model_plan("2d", (1, 128, 128), encoder=encoder, stages=stages, decoder_channels=widths)
    counted = counted_bytes(model, 3, 30)
    assert window_bytes(model, 3, 30, allowed=counted) == counted
    assert counted < window_bytes(model, 3, 30, allowed=10**12)
