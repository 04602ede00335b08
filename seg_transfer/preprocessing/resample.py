"""Resampling of volumes as one sparse matrix per axis.

Spline interpolation is linear in the values and separable, so along one axis it is a matrix, and a volume is three
matrix products. The matrices are those of :func:`scipy.ndimage.zoom` with ``grid_mode=True, mode="nearest"`` (what
skimage's ``resize`` and nnU-Net use): both grids share the outer edges of the volume, and beyond the outermost voxel
centres the edge value holds. A cubic spline reaches over the whole axis, but 3.7 times less with every voxel, so that
some twenty weights a row are left: the same numbers in a small part of scipy's time (``bench/preprocessing.py``).

All volumes are in network order ``(slice, u, v)``; ``orders`` is the spline order (0, 1 or 3) along each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array

NEGLIGIBLE = 1e-7
"""Weights below this are dropped; float32 would lose them beside the others anyway."""

Box = tuple[slice, slice, slice]


def resample(volume: NDArray, shape: Sequence[int], orders: Sequence[int]) -> NDArray[np.float32]:
    """Bring a volume to another shape that covers the same box.

    The result is clipped to the range of the input, since cubic splines overshoot at edges. Axes whose length does
    not change are not touched: the identity is exact to the bit.

    Args:
        volume: ``(slice, u, v)``.
        shape: The new shape.
        orders: Spline order along each axis.
    """
    result = np.ascontiguousarray(volume, np.float32)
    if result.shape == tuple(shape):
        return result
    low, high = result.min(), result.max()
    for axis in sorted(range(3), key=lambda axis: shape[axis] / volume.shape[axis]):
        if shape[axis] != volume.shape[axis]:
            result = _along(result, axis, _weights(volume.shape[axis], shape[axis], orders[axis]))
    return np.clip(result, low, high, out=result)


def resample_argmax(
    score: Callable[[int], NDArray],
    classes: Iterable[int],
    count: int,
    shape: Sequence[int],
    orders: Sequence[int],
) -> NDArray[np.unsignedinteger]:
    """Resample the scores of every class and take the class with the highest one.

    One class is in memory at a time, and only the part of it that can win: scores add up to 1, so a class wins
    nowhere but near voxels where it has at least ``1 / count``.

    Args:
        score: Class index -> its probabilities (or one-hot mask) ``(slice, u, v)``.
        classes: The classes that occur, in ascending order; of equal scores the first wins.
        count: Number of all classes.
        shape: The new shape.
        orders: Spline order along each axis, 0 or 1.

    Returns:
        Class indices in the new shape, ``uint8`` where they fit, else ``uint16``.
    """
    best = np.zeros(tuple(shape), np.float32)
    winner = np.zeros(tuple(shape), class_dtype(count))
    for index in classes:
        values = score(index)
        box = bounding_box(values >= 0.99 / count)
        if box is None:
            continue
        steps = [_step(values.shape[axis], shape[axis], orders[axis], box[axis]) for axis in range(3)]
        source, target = tuple(step[0] for step in steps), tuple(step[1] for step in steps)
        values = np.ascontiguousarray(values[source], np.float32)
        for axis, (_, _, weights) in enumerate(steps):
            if weights is not None:
                values = _along(values, axis, weights)
        better = values > best[target]
        best[target][better] = values[better]
        winner[target][better] = index
    return winner


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box around the true voxels of a mask of three axes, in their order; None where there are none."""
    box = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if hit.size == 0:
            return None
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return box[0], box[1], box[2]


def class_dtype(count: int) -> type[np.unsignedinteger]:
    """Smallest type for this number of classes."""
    return np.uint8 if count <= 256 else np.uint16


@lru_cache(maxsize=64)
def _weights(before: int, after: int, order: int) -> csr_array:
    """Matrix ``(after, before)`` that interpolates along one axis: scipy's answer to each unit impulse."""
    zoomed = ndimage.zoom(np.eye(before), (after / before, 1), order=order, mode="nearest", grid_mode=True)
    zoomed[np.abs(zoomed) < NEGLIGIBLE] = 0
    return csr_array(zoomed.astype(np.float32))


def _along(volume: NDArray[np.float32], axis: int, weights: csr_array) -> NDArray[np.float32]:
    """Apply a matrix along one axis."""
    after, (slices, height, width) = weights.shape[0], volume.shape
    if axis == 0:
        return (weights @ volume.reshape(slices, height * width)).reshape(after, height, width)
    result = np.empty((slices, after, width) if axis == 1 else (slices, height, after), np.float32)
    for before, target in zip(volume, result, strict=True):
        target[...] = weights @ before if axis == 1 else (weights @ before.T).T
    return result


def _step(before: int, after: int, order: int, box: slice) -> tuple[slice, slice, csr_array | None]:
    """Part of the source needed, part of the target reached, and the matrix between, for what touches ``box``."""
    if before == after:
        return box, box, None
    weights = _weights(before, after, order)
    target = _span(np.flatnonzero(np.diff(weights[:, box].indptr)))
    source = _span(weights[target].indices)
    return source, target, weights[target, source]


def _span(indices: NDArray[np.integer]) -> slice:
    """From the lowest to the highest; empty if there is none (a coarser grid can step over a voxel)."""
    return slice(int(indices.min()), int(indices.max()) + 1) if indices.size else slice(0, 0)
