"""Goes through arrays in the order of their memory, several times as fast as in the order of their axes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 2**18
"""Values in a block, about: what is made of them stays in the processor's cache."""


@dataclass(frozen=True)
class MemoryOrder:
    """How an array's axes lie in memory; volumes in canonical order are views of files that are stored otherwise.

    Attributes:
        axes: The array's axes, from the slowest in memory to the fastest.
        backwards: Of each of these: whether memory runs against it.
    """

    axes: tuple[int, ...]
    backwards: tuple[bool, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> MemoryOrder:
        """The order of an array."""
        # Axes of length 1 have any stride; they go first, where they divide no block.
        strides = [stride if size > 1 else np.inf for stride, size in zip(array.strides, array.shape, strict=True)]
        axes = sorted(range(array.ndim), key=lambda axis: -abs(strides[axis]))
        return cls(tuple(axes), tuple(strides[axis] < 0 for axis in axes))

    def view(self, array: np.ndarray) -> np.ndarray:
        """View of an array with as many axes, in this order."""
        return array.transpose(self.axes)[self._flips()]

    def restore(self, view: np.ndarray) -> np.ndarray:
        """View of an array in this order, with the axes as they were; the inverse of :meth:`view`."""
        return view[self._flips()].transpose(np.argsort(self.axes))

    def _flips(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if backwards else 1) for backwards in self.backwards)


def blocks(*arrays: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Go through arrays of the same shape along their first axis, in blocks of whole slices of about :data:`BLOCK`.

    Yields:
        Index of the block's first slice, and a block of each array; contiguous where the array is.
    """
    slices = len(arrays[0])
    size = max(1, BLOCK * slices // max(1, arrays[0].size))
    for start in range(0, slices, size):
        yield start, [array[start : start + size] for array in arrays]
