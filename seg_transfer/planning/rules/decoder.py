"""Width of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.planning.cost import DeviceKind

WIDTHS: dict[str, dict[int, int]] = {
    "cpu": {2: 32, 4: 64, 8: 128, 16: 256, 32: 256},
    "gpu": {2: 64, 4: 96, 8: 128, 16: 192, 32: 256},
}
"""Device -> in-plane stride of a stage -> channels of its block."""


def decoder_channels(strides: Sequence[int], device: DeviceKind) -> tuple[tuple[int, ...], str]:
    """Choose the channels of the decoder's block at each stage, from the finest.

    The finest stage costs most: a CPU gets half the width there. Coarser blocks are wider, as in the U-Net.

    Args:
        strides: In-plane stride of each stage in use, from the finest.
        device: Kind of device that trains.
    """
    table = WIDTHS["cpu" if device == "cpu" else "gpu"]
    widths = tuple(table[stride] for stride in strides)
    return widths, (
        f"{widths[0]} at the finest stage (stride {strides[0]}) on {device}, which costs most, and wider at coarser "
        f"ones; {len(widths)} blocks, one per encoder stage in use"
    )
