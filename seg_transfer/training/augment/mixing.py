"""CutMix: a box of one sample, image and label, replaces that of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from seg_transfer.training.augment.parameters import Array, Parameters


def cut_mix(image: Tensor, label: Tensor, parameters: Parameters) -> None:
    """Replace in place a box of each sample chosen by its partner's, as that was before any was replaced.

    Yun et al., CutMix, ICCV 2019; here the label is one per voxel, so that it is cut like the image.

    Args:
        image: ``(batch, channel, slice, u, v)``.
        label: ``(batch, slice, u, v)``; with a single slice under a stack of them, boxes go through every slice.
        parameters: What to do.
    """
    in_plane = label.shape[1] != image.shape[2]
    pasted = []
    for sample in np.flatnonzero(parameters.partner != np.arange(len(image))).tolist():
        box = box_of(parameters.cutmix[sample], image.shape[2:], in_plane=in_plane)
        under = (slice(None), *box[1:]) if in_plane else box
        partner = int(parameters.partner[sample])
        pasted.append(
            (sample, box, under, image[(partner, slice(None), *box)].clone(), label[(partner, *under)].clone())
        )
    for sample, box, under, part, marked in pasted:
        image[(sample, slice(None), *box)] = part
        label[(sample, *under)] = marked


def box_of(shares: Array, shape: Sequence[int], *, in_plane: bool) -> tuple[slice, slice, slice]:
    """A box ``(3, 2)`` in shares of a patch as slices of (slice, u, v); at least one voxel wide."""
    first, last = np.floor(shares[:, 0] * shape).astype(int), np.round(shares[:, 1] * shape).astype(int)
    slices, u, v = (slice(start, max(start + 1, end)) for start, end in zip(first.tolist(), last.tolist(), strict=True))
    return (slice(None) if in_plane else slices), u, v
