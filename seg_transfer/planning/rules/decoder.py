"""How wide the decoder is."""

from __future__ import annotations

from typing import Literal

from seg_transfer.planning.cost import Configuration, DeviceKind

BELOW_FULL_RESOLUTION = (32, 64, 128, 256, 256)


def decoder_channels(stages: int, configuration: Configuration, device: DeviceKind) -> tuple[tuple[int, ...], str]:
    """Choose the channels of the decoder's blocks, from full resolution down.

    At full resolution a channel costs 64 times (3D) what it costs at the encoder's second level, and the block there
    only sharpens borders: it stays narrow. Below, widths double per level as in the U-Net.

    Args:
        stages: Levels of the encoder in use, hence blocks of the decoder.
        configuration: 2D, 2.5D or 3D.
        device: A CPU gets the narrower block at full resolution.
    """
    full = 16 if configuration == "3d" or device == "cpu" else 32
    widths = (full, *BELOW_FULL_RESOLUTION[: stages - 1])
    return widths, (
        f"{full} at full resolution, where every voxel costs most ({configuration} on {device}), then doubling from "
        f"{BELOW_FULL_RESOLUTION[0]} over {stages} blocks, one per encoder level in use"
    )


def decoder_norm() -> tuple[Literal["instance"], str]:
    """Choose the decoder's norm."""
    return "instance", "instance norm needs no batch statistics, so small batches do not hurt (nnU-Net)"
