"""Counts and moments of figures over cases, which can be added to those of other cases."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from seg_transfer.planning.distribution import Distribution
from seg_transfer.util.records import Record

MOST_ROWS = 4096
"""Different rows of figures up to which they are kept exactly."""
MOST_BITS = 63

Count = Annotated[int, Field(strict=True, ge=0, le=2**53)]
"""A count that float64 holds exactly."""
Figure = Annotated[float, Field(strict=True, ge=-1e150, le=1e150)]
"""Squares of larger ones overflow."""


class Counted(Record):
    """How often each row of figures occurs, in bounded memory.

    Rows are exact as long as there are at most :data:`MOST_ROWS` different ones. Beyond that the last bits of all
    figures are dropped, as few as leave so many rows; a bin's middle stands for its figures, which is wrong by a factor
    of at most ``1 + 2 ** (dropped_bits - 53)``. Adding is associative and commutative bit for bit, because a coarse bin
    holds whole finer ones.
    """

    dropped_bits: int = Field(default=0, strict=True, ge=0, le=MOST_BITS)
    rows: tuple[tuple[Figure, ...], ...] = Field(default=(), max_length=MOST_ROWS, description="ascending")
    counts: tuple[Count, ...] = Field(default=(), max_length=MOST_ROWS, description="of each row")

    @model_validator(mode="after")
    def _is_consistent(self) -> Counted:
        if len(self.rows) != len(self.counts):
            raise ValueError(f"{len(self.rows)} rows, but {len(self.counts)} counts")
        if any(len(row) != len(self.rows[0]) for row in self.rows):
            raise ValueError("rows of different lengths")
        if 0 in self.counts:
            raise ValueError("a row with a count of 0")
        return self

    @classmethod
    def of(cls, rows: Sequence[float] | Sequence[Sequence[float]] | np.ndarray) -> Counted:
        """Count rows, ``(n, figures)``, or single figures, ``(n,)``."""
        if not len(rows):
            return cls()
        array = np.asarray(rows, dtype=np.float64)
        return cls._bounded(array.reshape(len(array), -1), np.ones(len(array), np.int64), 0)

    @classmethod
    def columns(cls, rows: Sequence[Sequence[float]] | np.ndarray) -> tuple[Counted, Counted, Counted]:
        """Count each of three columns apart."""
        x, y, z = np.asarray(rows, dtype=np.float64).T
        return cls.of(x), cls.of(y), cls.of(z)

    def __add__(self, other: Counted) -> Counted:
        """Both together."""
        if not (self.rows and other.rows):
            return self if self.rows else other
        counts = np.array(self.counts + other.counts, np.int64)
        return self._bounded(np.array(self.rows + other.rows), counts, max(self.dropped_bits, other.dropped_bits))

    @property
    def size(self) -> int:
        """Number of rows counted."""
        return sum(self.counts)

    @property
    def width(self) -> int:
        """Figures in a row; 0 without rows."""
        return len(self.rows[0]) if self.rows else 0

    def values(self) -> np.ndarray:
        """The different rows, ``(n, figures)``."""
        rows = np.array(self.rows)
        if not self.dropped_bits:
            return rows
        middles = (rows.view(np.int64) | np.int64(1 << (self.dropped_bits - 1))).view(np.float64)
        return np.where(rows == 0, 0.0, middles)

    def column(self, index: int = 0) -> Distribution:
        """The distribution of one figure."""
        column = self.values()[:, index]
        order = np.argsort(column, kind="stable")
        return Distribution(column[order], np.array(self.counts)[order])

    def median(self) -> float:
        """Median of the first figure."""
        return self.column().quantile(0.5)

    @classmethod
    def _bounded(cls, rows: np.ndarray, counts: np.ndarray, dropped: int) -> Counted:
        """Count rows that may be equal, with as few dropped bits as possible, but at least ``dropped``."""
        bits = (rows + 0.0).view(np.int64)  # -0 becomes 0

        def masked(dropped: int) -> np.ndarray:
            return (bits & np.int64(-1 << dropped)).view(np.float64) + 0.0

        if len(rows) > MOST_ROWS:
            dropped = bisect_left(
                range(MOST_BITS), True, lo=dropped, key=lambda bits: len(_sorted(masked(bits))[1]) <= MOST_ROWS
            )
        kept = masked(dropped)
        order, starts = _sorted(kept)
        totals = np.add.reduceat(counts[order], starts)
        distinct = kept[order][starts].tolist()
        return cls(dropped_bits=dropped, rows=tuple(map(tuple, distinct)), counts=tuple(totals.tolist()))


class Moments(Record):
    """Mean and variance of figures. Sums in another order differ in the last bits of float64."""

    count: Count = 0
    mean: Figure = 0.0
    squares: float = Field(default=0.0, strict=True, ge=0, description="sum of the squared distances from the mean")

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of the values that are not nan."""
        values = values[~np.isnan(values)]
        if not values.size:
            return cls()
        mean = float(values.mean())
        return cls(count=values.size, mean=mean, squares=float(((values - mean) ** 2).sum()))

    def __add__(self, other: Moments) -> Moments:
        """Both together (Chan et al., 1979)."""
        if not (self.count and other.count):
            return self if self.count else other
        count, difference = self.count + other.count, other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + difference * (other.count / count),
            squares=self.squares + other.squares + difference**2 * (self.count * (other.count / count)),
        )

    @property
    def variance(self) -> float:
        """Mean of the squared distances from the mean."""
        return self.squares / self.count


def _sorted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of at least one row, and where in it the different rows start."""
    order = np.lexsort(rows.T[::-1])
    ordered = rows[order]
    changes = (ordered[1:] != ordered[:-1]).any(axis=1)
    return order, np.flatnonzero(np.append(True, changes))
