"""Whether the decoder reads where each voxel lies in the case's content."""

from __future__ import annotations

from seg_transfer.options.choices import Head


def position(head: Head, carried: bool | None = None) -> tuple[bool, str]:
    """Choose position maps for every decoder that is new.

    A patch alone does not say which side of the body it shows. The maps gained 2.3 points on abdomen MR with 5 cases in
    400 steps, and 0.4 to 1.1 on three other data sets (docs/log.md, 2026-11-28).

    Args:
        head: The head.
        carried: Whether the decoder of an earlier model, which is carried over, reads them; None for a new decoder.
    """
    if head != "unet":
        return False, "there is no decoder"
    if carried is not None:
        return carried, "as in the decoder that is carried over"
    return True, "the decoder also reads where in the body a patch lies, which organs on one side of it need"
