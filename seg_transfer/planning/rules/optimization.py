"""How long and with what the network is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seg_transfer.planning.cost import DeviceKind, Machine
from seg_transfer.util.units import seconds_text

CPU_SECONDS = 1200.0
GPU_EPOCHS = 150
GPU_STEPS_PER_EPOCH = 100
EPOCHS_IN_BUDGET = 25
STEP_SECONDS = 0.5
STEPS_WANTED = 300
"""120 steps of four whole hippocampus cases already reached a Dice of 0.82 on development cases (docs/log.md)."""
SPARSE_FOREGROUND = 0.01

# Constants, each with the reason that the plan gives for it.
LEARNING_RATE: tuple[float, str] = (
    3e-3,
    "on hippocampus 0.003 beat 0.001 in every pair of short trainings (docs/log.md, 2026-11-22)",
)
"""The decoder's peak; the strategy says which share of it the encoder gets."""
WEIGHT_DECAY: tuple[float, str] = (1e-2, "AdamW's usual decay; frozen parameters are left out")
GRADIENT_CLIP: tuple[float, str] = (12.0, "nnU-Net's: cuts rare spikes and leaves ordinary steps alone")


@dataclass(frozen=True)
class PlannedBudget:
    """Either epochs or seconds of training; ``steps_per_epoch`` is how often results are logged."""

    epochs: int | None
    time_budget: float | None
    steps_per_epoch: int
    steps: float


def target_step_seconds(time_budget: float | None) -> float:
    """Seconds a step should take on a CPU: about 0.5, and at most what gives 300 steps within the budget."""
    return min(STEP_SECONDS, (CPU_SECONDS if time_budget is None else time_budget) / STEPS_WANTED)


def steps_in_time(seconds_per_step: float, time_budget: float | None) -> float:
    """Steps that fit into the user's time budget, or else into the default one of a CPU."""
    return (CPU_SECONDS if time_budget is None else time_budget) / seconds_per_step


def budget(
    device: DeviceKind, seconds_per_step: float, *, epochs: int | None, time_budget: float | None
) -> tuple[PlannedBudget, str]:
    """Choose the training budget.

    Args:
        device: On a CPU time decides, elsewhere a number of steps that nnU-Net's curves call enough.
        seconds_per_step: Estimate.
        epochs: The user's choice, if any.
        time_budget: The user's choice in seconds, if any.
    """
    if epochs is not None:
        return PlannedBudget(
            epochs, None, GPU_STEPS_PER_EPOCH, epochs * GPU_STEPS_PER_EPOCH
        ), f"asked for {epochs} epoch(s)"
    if time_budget is None and device != "cpu":
        steps = GPU_EPOCHS * GPU_STEPS_PER_EPOCH
        return PlannedBudget(GPU_EPOCHS, None, GPU_STEPS_PER_EPOCH, steps), (
            f"{steps} steps on a GPU: nnU-Net's curve on hippocampus is flat from about 12,500 steps on"
        )
    seconds = CPU_SECONDS if time_budget is None else time_budget
    steps_in_time = seconds / seconds_per_step
    per_epoch = int(min(GPU_STEPS_PER_EPOCH, max(1, steps_in_time / EPOCHS_IN_BUDGET)))
    why = "asked for" if time_budget is not None else "the default on a CPU:"
    return PlannedBudget(None, seconds, per_epoch, steps_in_time), (
        f"{why} {seconds_text(seconds)}, about {steps_in_time:.0f} steps of {seconds_text(seconds_per_step)}; "
        f"logged every {per_epoch} of them"
    )


def precision(machine: Machine) -> tuple[Literal["float32", "bfloat16"], str]:
    """Choose the precision of the network's operations; parameters stay float32.

    Args:
        machine: Its gain is measured when planning.
    """
    ratio = 1 / machine.bfloat16_gain
    measured = f"a convolution took {ratio:.2g} times as long in bfloat16 as in float32 on this {machine.kind}"
    return ("bfloat16" if machine.takes_bfloat16 else "float32"), measured


def ema_decay(steps: float) -> tuple[float, str]:
    """Choose the decay of the averaged weights: they look back over about a twentieth of the run."""
    window = min(1000.0, max(10.0, steps / 20))
    return round(1 - 1 / window, 4), f"averages over the last {window:.0f} of about {steps:.0f} steps"


def warmup(steps: float) -> tuple[float, str]:
    """Choose the share of the budget in which the rate climbs: a twentieth, and at least 20 steps of short runs."""
    share = round(min(0.2, max(0.05, 20 / steps)), 4)
    return share, f"{share:.1%} of about {steps:.0f} steps"


def foreground_share(share: float, smallest: tuple[str, float, int]) -> tuple[float, str]:
    """Choose how many patches are centred on a labelled voxel.

    Args:
        share: Median share of a case's voxels that carry a label.
        smallest: Name of the smallest label, its share of all voxels, and how many cases hold it.
    """
    name, voxels, cases = smallest
    return (0.67 if share < SPARSE_FOREGROUND else 0.5), (
        f"labels cover {share:.2%} of the median case (sparse below {SPARSE_FOREGROUND:.0%}); every label is drawn as "
        f"often as the others, the smallest, {name}, too, with {voxels:.2g} of all voxels and in {cases} case(s)"
    )


def deep_supervision(stages: int) -> tuple[bool, str]:
    """Choose whether coarser decoder blocks are supervised too."""
    return stages >= 3, f"{stages} decoder blocks (from 3 on, coarser ones get a loss of their own)"
