"""Budget, optimizer and loss: how the network is trained.

A new decision that needs only :class:`Training` is a function here with its entry in ``DECISIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from seg_transfer.options.choices import Precision
from seg_transfer.planning.cost import SMALLEST_GAIN, DeviceKind, Machine
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.planning.site_fingerprint import SiteFingerprint
from seg_transfer.util.units import seconds_text

CPU_SECONDS = 1200.0
GPU_EPOCHS = 150
GPU_STEPS_PER_EPOCH = 100
EPOCHS_IN_BUDGET = 25
STEP_SECONDS = 0.5
TARGET_STEPS = 300
"""120 steps of four whole hippocampus cases already reached a Dice of 0.82 on development cases (docs/log.md)."""
SPARSE_FOREGROUND = 0.01

# Constants, each with the reason that the plan gives for it.
LEARNING_RATE: tuple[float, str] = (
    6e-3,
    "0.2 points of Dice above 0.003 over five data sets in 400 to 1,200 steps, within chance (docs/log.md, 2026-11-28)",
)
"""Peak rate of the decoder; the strategy sets the encoder's share of it."""
WEIGHT_DECAY: tuple[float, str] = (1e-2, "AdamW's usual decay; frozen parameters are left out")
GRADIENT_CLIP: tuple[float, str] = (12.0, "nnU-Net's: cuts rare spikes and leaves ordinary steps alone")


@dataclass(frozen=True)
class PlannedBudget:
    """Either epochs or seconds of training; results are logged every ``steps_per_epoch``."""

    epochs: int | None
    time_budget: float | None
    steps_per_epoch: int
    steps: float


def target_step_seconds(time_budget: float | None) -> float:
    """Seconds that a step should take on a CPU: 0.5, or less to fit 300 steps into the budget."""
    return min(STEP_SECONDS, (CPU_SECONDS if time_budget is None else time_budget) / TARGET_STEPS)


def steps_in_time(seconds_per_step: float, time_budget: float | None) -> float:
    """Steps that fit into the user's time budget, or else into the default one on a CPU."""
    return (CPU_SECONDS if time_budget is None else time_budget) / seconds_per_step


def budget(
    device: DeviceKind, seconds_per_step: float, *, epochs: int | None, time_budget: float | None
) -> tuple[PlannedBudget, str]:
    """Choose the training budget.

    Args:
        device: The default is a time on a CPU, and elsewhere a number of steps after which nnU-Net's curves are flat.
        seconds_per_step: Estimated.
        epochs: The user's choice, if any.
        time_budget: The user's choice in seconds, if any.
    """
    if epochs is not None:
        return PlannedBudget(epochs, None, GPU_STEPS_PER_EPOCH, epochs * GPU_STEPS_PER_EPOCH), "requested"
    if time_budget is None and device != "cpu":
        gpu_steps = GPU_EPOCHS * GPU_STEPS_PER_EPOCH
        return PlannedBudget(GPU_EPOCHS, None, GPU_STEPS_PER_EPOCH, gpu_steps), (
            f"the default on a GPU; {gpu_steps} steps: nnU-Net's curve on hippocampus is flat from about 12,500 on"
        )
    seconds = CPU_SECONDS if time_budget is None else time_budget
    steps = steps_in_time(seconds_per_step, time_budget)
    per_epoch = int(min(GPU_STEPS_PER_EPOCH, max(1, steps / EPOCHS_IN_BUDGET)))
    source = "the default on a CPU" if time_budget is None else "requested"
    return PlannedBudget(None, seconds, per_epoch, steps), (
        f"{source}; {seconds_text(seconds)}, about {steps:.0f} steps of {seconds_text(seconds_per_step)}; "
        f"logged every {per_epoch} of them"
    )


def precision(machine: Machine) -> tuple[Precision, str]:
    """Choose the precision of the network's operations; parameters stay float32."""
    if not machine.bfloat16_gain:
        return "float32", "the processor has no instructions for bfloat16, and takes several times as long for it"
    ratio = 1 / machine.bfloat16_gain
    measured = f"a convolution took {ratio:.2g} times as long in bfloat16 as in float32 on this {machine.kind}"
    return ("bfloat16" if machine.takes_bfloat16 else "float32"), measured


def depthwise_gradients(
    model: ModelPlan, machine: Machine, gain: Callable[[Literal[2, 3], Precision], float]
) -> tuple[Literal["torch", "fast"], str]:
    """Choose how gradients of depthwise convolutions are computed; only CPUs need another way than torch's.

    Args:
        model: The network.
        machine: The device.
        gain: Measures how many times faster the other way is, for 2 or 3 dimensions and a precision.
    """
    if machine.kind != "cpu":
        return "torch", f"torch's are fast on {machine.kind}"
    dimensions: Literal[2, 3] = 3 if model.configuration == "3d" else 2
    chosen, _ = precision(machine)
    ratio = gain(dimensions, chosen)
    where = f"in {dimensions}D and {chosen} on this {machine.kind}"
    measured = f"torch's took {ratio:.2f} times as long as segtl's own {where}"
    return ("fast" if ratio > SMALLEST_GAIN else "torch"), measured


def ema_decay(steps: float) -> tuple[float, str]:
    """Choose the decay of the averaged weights: they average over about a twentieth of the run."""
    window = min(1000.0, max(10.0, steps / 20))
    return round(1 - 1 / window, 4), f"averages about the last {window:.0f} of {steps:.0f} steps"


def warmup(steps: float) -> tuple[float, str]:
    """Choose the share of the budget in which the rate rises: a twentieth, and at least 20 steps of short runs."""
    share = round(min(0.2, max(0.05, 20 / steps)), 4)
    return share, f"{share:.1%} of about {steps:.0f} steps"


def foreground_share(share: float, smallest: tuple[str, float, int]) -> tuple[float, str]:
    """Choose how many patches are centred on a labelled voxel.

    Args:
        share: Median over the cases of the share of labelled voxels.
        smallest: Name of the smallest label, its share of all voxels, and the number of cases that hold it.
    """
    name, voxels, cases = smallest
    return (0.67 if share < SPARSE_FOREGROUND else 0.5), (
        f"labels cover {share:.2%} of the median case (sparse below {SPARSE_FOREGROUND:.0%}); all labels are drawn "
        f"equally often, also the smallest, {name}, with {voxels:.2g} of all voxels and in {cases} case(s)"
    )


def deep_supervision(stages: int) -> tuple[bool, str]:
    """Choose whether the loss is also computed at coarser decoder blocks."""
    return stages >= 3, f"{stages} decoder blocks (from 3 on, there is also a loss at the coarser ones)"


@dataclass(frozen=True)
class Training:
    """What ``DECISIONS`` start from.

    Attributes:
        site: Sum of the cases.
        model: The network.
        machine: The device.
        steps: Expected number of training steps.
    """

    site: SiteFingerprint
    model: ModelPlan
    machine: Machine
    steps: float


DECISIONS: dict[str, Callable[[Training], tuple[Any, str]]] = {
    "learning_rate": lambda _: LEARNING_RATE,
    "weight_decay": lambda _: WEIGHT_DECAY,
    "warmup": lambda training: warmup(training.steps),
    "gradient_clip": lambda _: GRADIENT_CLIP,
    "ema_decay": lambda training: ema_decay(training.steps),
    "precision": lambda training: precision(training.machine),
    "deep_supervision": lambda training: deep_supervision(training.model.stages),
    "foreground_share": lambda training: foreground_share(
        training.site.foreground_share(), training.site.smallest_label()
    ),
}
"""Field of :class:`RecipePlan` -> its rule."""
