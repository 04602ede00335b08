"""Distributions of intensities: of one case exactly, and of many cases in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seg_transfer.util.memory_order import BLOCK

MOST_BINS = 16384
"""Most bins of a sketch."""
BINS_PER_STD = 1024
"""Bins of a case's sketch in a standard deviation of real numbers, at least; whole numbers have a bin each."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """Values in ascending order.

    Attributes:
        values: ``(n,)``, distinct if there are counts.
        counts: How often each occurs; None: once each.
    """

    values: np.ndarray
    counts: np.ndarray | None = None

    @classmethod
    def of_counts(cls, counts: np.ndarray, lowest: int) -> Distribution:
        """Of whole numbers, of which ``counts[i]`` are ``lowest + i``."""
        found = np.flatnonzero(counts)
        return cls(found + lowest, counts[found])

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values) if self.counts is None else int(self.counts.sum())

    def without_zero(self) -> Distribution:
        """All values but those that are 0."""
        first, end = np.searchsorted(self.values, 0, "left"), np.searchsorted(self.values, 0, "right")
        if first == end:
            return self
        counts = None if self.counts is None else np.delete(self.counts, slice(first, end))
        return Distribution(np.concatenate([self.values[:first], self.values[end:]]), counts)

    def at(self, ranks: np.ndarray) -> np.ndarray:
        """Values at these ranks, from 0 to :attr:`size` - 1; interpolated between neighbours."""
        below = np.floor(ranks).astype(np.int64)
        low, high = (self._at(np.minimum(below + step, self.size - 1)) for step in (0, 1))
        return low + (ranks - below) * (high - low)

    def quantile(self, share: float) -> float:
        """Quantile of the values, interpolated between neighbours as by :func:`numpy.quantile`."""
        return float(self.at(np.array([share * (self.size - 1)]))[0])

    def _at(self, ranks: np.ndarray) -> np.ndarray:
        if self.counts is not None:
            ranks = np.searchsorted(np.cumsum(self.counts), ranks, side="right")
        return self.values[ranks].astype(np.float64)

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation, in float64."""
        if self.counts is None:
            return mean_and_std(np.array_split(self.values, max(1, len(self.values) // BLOCK)))
        mean = float(self.values @ self.counts) / self.size
        return mean, float((self.values - mean) ** 2 @ self.counts / self.size) ** 0.5


def mean_and_std(parts: np.ndarray | Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean and std of all values, in float64 for one part at a time to save memory."""
    count = sum(part.size for part in parts)
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / count
    return mean, (sum(float(((part - np.float64(mean)) ** 2).sum()) for part in parts) / count) ** 0.5


@dataclass(frozen=True, eq=False)
class Sketch:
    """A distribution in bounded memory, which can be added to others.

    Percentiles are off by half the width of a bin at most. A bin is a power of two wide, so that two bins become one
    where there are more than :data:`MOST_BINS`: widths of 1 for whole numbers of up to 14 bits, and of at most a
    thousandth of the standard deviation for a case's real numbers.

    Attributes:
        exponent: A bin is ``2 ** exponent`` wide.
        bins: Ascending; the middle of a bin is at ``bins * 2 ** exponent``.
        weights: Of each bin.
        mean: Exact.
        variance: Exact.
        least: Least value.
        largest: Largest value.
    """

    exponent: int
    bins: np.ndarray
    weights: np.ndarray
    mean: float
    variance: float
    least: float
    largest: float

    @classmethod
    def of(cls, distribution: Distribution) -> Sketch:
        """The sketch of at least one value; its weight is 1."""
        values, size = distribution.values, distribution.size
        mean, std = distribution.mean_and_std()
        least, largest = float(values[0]), float(values[-1])
        exponent = 0 if values.dtype.kind in "iu" else _exponent(std / BINS_PER_STD, least, largest)
        if distribution.counts is not None:
            bins, weights = _scaled(values, -exponent), distribution.counts / size
        else:
            parts = [
                np.unique(_scaled(part, -exponent), return_counts=True)
                for part in np.array_split(values, max(1, len(values) // BLOCK))
            ]
            bins = np.concatenate([part for part, _ in parts])
            weights = np.concatenate([counts for _, counts in parts]) / size
        return cls(exponent, bins, weights, mean, std**2, least, largest)._bounded()

    def __add__(self, other: Sketch) -> Sketch:
        """Both together."""
        least, largest = min(self.least, other.least), max(self.largest, other.largest)
        exponent = max(min(self.exponent, other.exponent), _exponent(0, least, largest))
        bins = np.concatenate([_scaled(each.bins, each.exponent - exponent) for each in (self, other)])
        weights = np.concatenate([self.weights, other.weights])
        order = np.argsort(bins, kind="stable")
        share = other.weight / (self.weight + other.weight)
        difference = other.mean - self.mean
        mean = self.mean + share * difference
        variance = self.variance + share * (other.variance - self.variance) + share * (1 - share) * difference**2
        return Sketch(exponent, bins[order], weights[order], mean, variance, least, largest)._bounded()

    @property
    def weight(self) -> float:
        """Of all values together: the number of cases."""
        return float(self.weights.sum())

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """The least values that have at least these shares of the weight up to them."""
        below = np.cumsum(self.weights)
        found = np.searchsorted(below, np.array(shares) * below[-1] * (1 - 1e-9))
        middles = self.bins[found] * 2.0**self.exponent
        return np.clip(middles, self.least, self.largest).tolist()

    def _bounded(self) -> Sketch:
        """With bins that are distinct and not too many."""
        exponent, bins, weights = self.exponent, self.bins, self.weights
        while True:
            bins, first = np.unique(bins, return_index=True)
            weights = np.add.reduceat(weights, first)
            if len(bins) <= MOST_BINS:
                return Sketch(exponent, bins, weights, self.mean, self.variance, self.least, self.largest)
            exponent, bins = exponent + 1, (bins + 1) >> 1


def _scaled(values: np.ndarray, exponent: int) -> np.ndarray:
    """The whole numbers next to ``values * 2 ** exponent``."""
    return np.rint(np.ldexp(values.astype(np.float64), exponent)).astype(np.int64)


def _exponent(width: float, least: float, largest: float) -> int:
    """The largest exponent of a bin of at most this width, as far as float64 has numbers so close together."""
    finest = int(np.frexp(max(abs(least), abs(largest)))[1]) - 52
    return max(int(np.floor(np.log2(width))), finest) if width else finest
