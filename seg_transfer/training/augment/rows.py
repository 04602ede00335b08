"""The samples of a batch that a transform concerns: only these are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def rows_of(chosen: Any, like: Tensor) -> Tensor | None:
    """Indices of the samples concerned, on the device; None if there are none.

    Args:
        chosen: ``(batch,)`` bool.
        like: Tensor on the device that the indices go to.
    """
    if not chosen.any():
        return None
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def per_sample(values: NDArray, rows: Tensor, *, rank: int) -> Tensor:
    """The rows' values on their device, with axes of size 1 behind them up to ``rank`` in all."""
    chosen = torch.from_numpy(np.ascontiguousarray(values)).to(rows.device)[rows]
    return chosen.reshape(*chosen.shape, *(1,) * (rank - chosen.ndim))
