"""Selection of the samples that a transform changes, so that only these are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def rows_of(chosen: Any, like: Tensor) -> Tensor | None:
    """Indices of the chosen samples ``(batch,)`` bool on the device of ``like``, or None if there are none."""
    if not chosen.any():
        return None
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def per_sample(values: NDArray, rows: Tensor, *, rank: int) -> Tensor:
    """Values of the rows on their device, with trailing axes of size 1 up to ``rank`` axes."""
    chosen = torch.from_numpy(np.ascontiguousarray(values)).to(rows.device)[rows]
    return chosen.reshape(*chosen.shape, *(1,) * (rank - chosen.ndim))
