"""Base of random transforms: parameters are drawn for each sample of a batch and then applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.planning.plan import Augmentation

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Draw:
    """Draws values ``(batch, *shape)`` float32; samples that are not chosen get the neutral value.

    ``which`` is the probability of a sample to be chosen, or a mask ``(batch,)``.

    Args:
        generator: Random generator of one transform.
        batch: Number of samples.
        channels: Image channels.
    """

    def __init__(self, generator: np.random.Generator, *, batch: int, channels: int) -> None:
        self.generator, self.batch, self.channels = generator, batch, channels

    def chosen(self, probability: float) -> Mask:
        """Mask ``(batch,)`` of samples, each chosen with this probability."""
        return self.generator.random(self.batch) < probability

    def within(self, which: float | Mask, limit: float, *shape: int) -> Array:
        """Uniform within ``[-limit, limit]``; 0 is neutral."""
        return self._where(which, self.generator.uniform(-limit, limit, (self.batch, *shape)), 0.0)

    def amount(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Uniform within the limits; 0 is neutral."""
        return self._where(which, self.generator.uniform(*limits, (self.batch, *shape)), 0.0)

    def factor(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Below or above 1 with equal probability, uniform in each range; 1 is neutral."""
        size = (self.batch, *shape)
        lower, upper = self.generator.uniform(limits[0], 1, size), self.generator.uniform(1, limits[1], size)
        return self._where(which, np.where(self.generator.random(size) < 0.5, lower, upper), 1.0)

    def _where(self, which: float | Mask, values: NDArray[np.float64], neutral: float) -> Array:
        chosen = which if isinstance(which, np.ndarray) else self.chosen(which)
        return np.where(chosen.reshape(-1, *(1,) * (values.ndim - 1)), values, neutral).astype(np.float32)


class Transform(ABC):
    """One random transform of a batch.

    A subclass is a dataclass of the drawn parameters: arrays with one row per sample. Its name is part of its random
    seed.
    """

    @classmethod
    @abstractmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        """Draw the parameters of a batch.

        Args:
            plan: Probabilities and ranges.
            draw: Random numbers of this transform.
        """

    def share(self, rows: slice) -> Self:
        """The same transform for some samples of the batch: to each it does what it does in the whole batch."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        arrays = {name: value[rows] for name, value in values.items() if isinstance(value, np.ndarray)}
        return replace(self, **arrays)  # type: ignore[type-var]


def rows_of(chosen: Any, like: Tensor) -> Tensor | None:
    """Indices of the chosen samples ``(batch,)`` bool on the device of ``like``, or None: only these are computed."""
    if not chosen.any():
        return None
    return torch.from_numpy(np.flatnonzero(chosen)).to(like.device)


def per_sample(values: NDArray, rows: Tensor, *, rank: int) -> Tensor:
    """Values of the rows on their device, with trailing axes of size 1 up to ``rank`` axes."""
    chosen = torch.from_numpy(np.ascontiguousarray(values)).to(rows.device)[rows]
    return chosen.reshape(*chosen.shape, *(1,) * (rank - chosen.ndim))
