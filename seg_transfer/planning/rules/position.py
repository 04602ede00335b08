"""Whether the decoder reads where each voxel lies in the case's content."""

from __future__ import annotations

from seg_transfer.options.choices import Head


def position(head: Head, dimension: int, carried: bool | None = None) -> tuple[bool, str]:
    """Choose position maps for new decoders of volumes.

    A patch alone does not say which side of the body it shows. The maps gained 3.3 and 1.6 points on abdomen MR with 5
    cases in 400 steps and 0.0 to 0.6 on hippocampus; on photographs of cells, which lie anywhere, they lost 0.7
    (docs/log.md, 2026-11-28).

    Args:
        head: The head.
        dimension: 2 for images, 3 for volumes.
        carried: Whether the decoder of an earlier model, which is carried over, reads them; None for a new decoder.
    """
    if head != "unet":
        return False, "there is no decoder"
    if carried is not None:
        return carried, "as in the decoder that is carried over"
    if dimension == 2:
        return False, "2D images need not show a body in the same view"
    return True, "the decoder also reads where in the body a patch lies, which organs on one side of it need"
