"""Width of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

from seg_transfer.planning.cost import DeviceKind

WIDTHS: dict[str, dict[int, int]] = {
    "narrow": {2: 16, 4: 32, 8: 64, 16: 128, 32: 128},
    "cpu": {2: 32, 4: 64, 8: 128, 16: 256, 32: 256},
    "gpu": {2: 64, 4: 96, 8: 128, 16: 192, 32: 256},
}
"""Device, or ``narrow`` -> in-plane stride of a stage -> channels of its block."""


def decoder_channels(
    strides: Sequence[int], device: DeviceKind, *, narrow: bool = False
) -> tuple[tuple[int, ...], str]:
    """Choose the channels of the decoder's block at each stage, from the finest.

    The finest stage costs most: a CPU gets half the width there. Coarser blocks are wider, as in the U-Net. Where a
    step takes long, the channels are halved: twice as many steps with the same patches were worth more than the
    channels, and more than larger patches (docs/log.md, 2026-11-28).

    Args:
        strides: In-plane stride of each stage in use, from the finest.
        device: Kind of device that trains.
        narrow: Whether the channels are halved, for more steps.
    """
    table = WIDTHS["narrow" if narrow else "cpu" if device == "cpu" else "gpu"]
    widths = tuple(table[stride] for stride in strides)
    why = "half of the usual, for more steps, since a step takes long; " if narrow else ""
    return widths, (
        f"{why}{widths[0]} at the finest stage (stride {strides[0]}) on {device}, which costs most, and wider at "
        f"coarser ones; {len(widths)} blocks, one per encoder stage in use"
    )


def is_narrow(widths: tuple[int, ...], strides: Sequence[int], device: DeviceKind) -> bool:
    """Whether a decoder of these channels is the narrow one; other arguments as for :func:`decoder_channels`."""
    return widths == decoder_channels(strides, device, narrow=True)[0]
