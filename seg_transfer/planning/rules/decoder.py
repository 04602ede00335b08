"""How wide the decoder is."""

from __future__ import annotations

from typing import Literal

from seg_transfer.planning.cost import DeviceKind

WIDTHS: dict[str, tuple[int, ...]] = {"cpu": (32, 64, 128, 256, 256), "gpu": (64, 96, 128, 192, 256)}


def decoder_channels(stages: int, device: DeviceKind) -> tuple[tuple[int, ...], str]:
    """Choose the channels of the decoder's block at each level, from the finest.

    The finest level costs most: a CPU gets half the width there. Below, widths grow as in the U-Net.

    Args:
        stages: Levels of the encoder in use, hence blocks of the decoder.
        device: What trains.
    """
    widths = WIDTHS["cpu" if device == "cpu" else "gpu"][:stages]
    return widths, (
        f"{widths[0]} at the finest level on {device}, where positions are most, then wider over {stages} blocks, one "
        "per encoder level in use"
    )


def decoder_norm() -> tuple[Literal["instance"], str]:
    """Choose the decoder's norm."""
    return "instance", "instance norm needs no batch statistics, so small batches do not hurt (nnU-Net)"
