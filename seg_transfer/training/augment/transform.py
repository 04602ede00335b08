"""What a random transform is: a record of what was drawn for each sample of a batch, which is then applied to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.plan import Augmentation

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Draw:
    """Draws one value, or several, for each sample of a batch; the neutral one for samples that are not chosen.

    ``which`` is a probability, or the samples themselves ``(batch,)``; results are ``(batch, *shape)`` float32.

    Args:
        generator: Of one transform.
        batch: Samples.
        channels: Image channels.
    """

    def __init__(self, generator: np.random.Generator, *, batch: int, channels: int) -> None:
        self.generator, self.batch, self.channels = generator, batch, channels

    def chosen(self, probability: float) -> Mask:
        """The samples ``(batch,)`` to which something happens."""
        return self.generator.random(self.batch) < probability

    def within(self, which: float | Mask, limit: float, *shape: int) -> Array:
        """Uniform within ``[-limit, limit]``; 0 is neutral."""
        return self._where(which, self.generator.uniform(-limit, limit, (self.batch, *shape)), 0.0)

    def amount(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Uniform within the limits; 0 is neutral."""
        return self._where(which, self.generator.uniform(*limits, (self.batch, *shape)), 0.0)

    def factor(self, which: float | Mask, limits: tuple[float, float], *shape: int) -> Array:
        """Shrink or enlarge with equal probability, although the range above 1 is wider; 1 is neutral."""
        size = (self.batch, *shape)
        lower, upper = self.generator.uniform(limits[0], 1, size), self.generator.uniform(1, limits[1], size)
        return self._where(which, np.where(self.generator.random(size) < 0.5, lower, upper), 1.0)

    def _where(self, which: float | Mask, values: NDArray[np.float64], neutral: float) -> Array:
        chosen = which if isinstance(which, np.ndarray) else self.chosen(which)
        return np.where(chosen.reshape(-1, *(1,) * (values.ndim - 1)), values, neutral).astype(np.float32)


class Transform(ABC):
    """One random transform of a batch.

    A subclass is a dataclass of what was drawn: arrays with one row a sample, neutral where nothing happens. Its name
    is part of its random seed.
    """

    @classmethod
    @abstractmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        """Draw what happens to each sample of a batch.

        Args:
            plan: Probabilities and ranges.
            draw: Random numbers of this transform alone.
        """
