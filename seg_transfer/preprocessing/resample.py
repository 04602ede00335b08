"""Resampling of volumes as one sparse matrix per axis, slab by slab along the slice axis.

Spline interpolation is linear in the values and separable: one matrix per axis, three matrix products per volume. The
matrices are those of :func:`scipy.ndimage.zoom` with ``grid_mode=True, mode="nearest"`` (as in skimage's ``resize`` and
nnU-Net): both grids share the outer edges of the volume, and beyond the outermost voxel centres the edge value is
repeated. The weights of a cubic spline fall by a factor of 3.7 with every voxel, so that about twenty per row are left:
the same result in a small part of scipy's time (``bench/preprocessing.py``). A slab of the result needs few slices of
the source, so that neither has to be in memory as a whole.

All volumes are in network order ``(slice, u, v)``; ``orders`` is the spline order (0, 1 or 3) along each axis. scipy is
imported where a matrix is made, since cases on the plan's grid need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.geometry import Box

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NEGLIGIBLE = 1e-7
"""Weights below this are dropped; they are lost in float32."""
SLAB = 16
"""Slices of the result that are computed at a time: those of a chunk of the store."""

Floats = NDArray[np.float32]


def resample(volume: NDArray, shape: Sequence[int], orders: Sequence[int]) -> Floats:
    """Resample a volume to another shape that covers the same box; see :func:`resampled_slabs`.

    Args:
        volume: ``(slice, u, v)``.
        shape: The new shape.
        orders: Spline order along each axis.
    """
    result = np.empty(tuple(shape), np.float32)

    def read(slices: slice) -> Floats:
        return np.ascontiguousarray(volume[slices], np.float32)

    for start, slab in resampled_slabs(read, volume.shape, shape, orders):
        result[start : start + len(slab)] = slab
    return result


def resampled_slabs(
    read: Callable[[slice], Floats], before: Sequence[int], after: Sequence[int], orders: Sequence[int]
) -> Iterator[tuple[int, Floats]]:
    """Resample a volume to another shape that covers the same box, a slab of 16 slices at a time.

    The result is clipped to the range of the input, since cubic splines overshoot at edges. Axes whose length does
    not change are not resampled: the identity is exact.

    Args:
        read: Slices of the source -> ``(n, u, v)``, contiguous. Called with ascending, adjacent slices; if an order is
            3, the whole source is read once before, for the range of its values.
        before: Shape of the source.
        after: The new shape.
        orders: Spline order along each axis.

    Yields:
        The slab's first slice, and the slab ``(n, u, v)``.
    """
    slabs = [slice(start, min(start + SLAB, after[0])) for start in range(0, after[0], SLAB)]
    if tuple(before) == tuple(after):
        yield from ((slab.start, read(slab)) for slab in slabs)
        return
    limits = _range(read, before[0]) if 3 in orders else None
    ratios = [size / was for was, size in zip(before, after, strict=True)]
    # The axis that shrinks most comes first, which leaves less work for the others.
    slices_first = ratios[0] <= min(ratios[1:])
    in_plane = [
        (axis, _weights(before[axis], after[axis], orders[axis]))
        for axis in sorted((1, 2), key=ratios.__getitem__)
        if before[axis] != after[axis]
    ]

    def across(part: Floats) -> Floats:
        for axis, weights in in_plane:
            part = _along(part, axis, weights)
        return part

    held, first = np.empty((0, 0, 0), np.float32), 0  # slices of the source, from `first` on
    for slab in slabs:
        rows = None if before[0] == after[0] else _weights(before[0], after[0], orders[0])[slab]
        needed = slab if rows is None else _span(rows.indices)
        new = read(slice(max(first + len(held), needed.start), needed.stop))
        new = new if slices_first else across(new)
        kept = held[needed.start - first :]
        held, first = np.concatenate([kept, new]) if len(kept) else new, needed.start
        part = held if rows is None else _along(held, 0, rows[:, needed])
        part = across(part) if slices_first else part
        # Not clipped in place if it is `held` itself, which the next slab may need unclipped.
        yield slab.start, part if limits is None else np.clip(part, *limits, out=None if part is held else part)


class PartResampling:
    """One box of what :func:`resampled_slabs` makes of a volume, from the part of the volume that it depends on.

    Args:
        before: Shape of the volume.
        after: The new shape.
        orders: Spline order along each axis.
        box: Part of the new shape.

    Attributes:
        source: The part of the volume.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int], orders: Sequence[int], box: Box) -> None:
        sizes = zip(before, after, orders, box, strict=True)
        rows = [None if old == new else _weights(old, new, order)[part] for old, new, order, part in sizes]
        s, u, v = (part if row is None else _span(row.indices) for row, part in zip(rows, box, strict=True))
        self.source: Box = (s, u, v)
        ratios = [new / old for old, new in zip(before, after, strict=True)]
        in_plane = sorted((1, 2), key=ratios.__getitem__)
        order = [0, *in_plane] if ratios[0] <= min(ratios[1:]) else [*in_plane, 0]
        self._steps = [(axis, row[:, self.source[axis]]) for axis in order if (row := rows[axis]) is not None]

    def __call__(self, values: Floats, limits: tuple[np.float32, np.float32] | None) -> Floats:
        """The box.

        Args:
            values: :attr:`source` of the volume, contiguous.
            limits: Range of the whole volume's values, if an order is 3.
        """
        for axis, weights in self._steps:
            values = _along(values, axis, weights)
        return np.clip(values, *limits, out=values) if self._steps and limits is not None else values


def resample_labels(labels: NDArray[np.unsignedinteger], shape: Sequence[int], orders: Sequence[int]) -> NDArray:
    """Resample the mask of every class and take the class with the highest value; of equal ones the first.

    Besides source and result, only the part of a slab around one class is in memory.

    Args:
        labels: Class indices ``(slice, u, v)``.
        shape: The new shape.
        orders: Spline order along each axis, 0 or 1.

    Returns:
        Class indices in the new shape.
    """
    result = np.zeros(tuple(shape), labels.dtype)
    for start in range(0, shape[0], SLAB):
        winner = result[start : start + SLAB]
        best = np.zeros(winner.shape, np.float32)
        rows = _weights(labels.shape[0], shape[0], orders[0])[start : start + SLAB]
        slices = _span(rows.indices)
        source, rows = labels[slices], rows[:, slices]
        for index in np.flatnonzero(np.bincount(source.reshape(-1))).tolist():
            mask = source == index
            box = bounding_box(mask)
            assert box is not None, "the class occurs"
            u, v = (_step(mask.shape[axis], shape[axis], orders[axis], box[axis]) for axis in (1, 2))
            values = _along(np.ascontiguousarray(mask[:, u[0], v[0]], np.float32), 0, rows)
            for axis, (_, _, weights) in ((1, u), (2, v)):
                if weights is not None:
                    values = _along(values, axis, weights)
            target = (slice(None), u[1], v[1])
            better = values > best[target]
            best[target][better] = values[better]
            winner[target][better] = index
    return result


class Neighbours(NamedTuple):
    """The two voxels of an axis that each new voxel is interpolated from.

    Attributes:
        lower: ``(n,)`` indices.
        upper: ``(n,)`` indices: the next voxel, or the same.
        share: ``(n,)`` weights of the upper voxels; those of the lower ones are 1 - share.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    share: Floats


def neighbours(before: int, after: int, order: int) -> Neighbours:
    """Resampling along an axis with order 0 or 1, as indices and weights."""
    weights = _weights(before, after, order)
    lower, last = weights.indices[weights.indptr[:-1]].astype(np.int64), weights.indptr[1:] - 1
    upper = weights.indices[last].astype(np.int64)
    return Neighbours(lower, upper, np.where(upper > lower, weights.data[last], 0).astype(np.float32))


def bounding_box(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box around the true voxels of a mask with three axes; None if there are none."""
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
    """Matrix ``(after, before)`` that interpolates along one axis: scipy's response to each unit impulse."""
    from scipy import ndimage
    from scipy.sparse import csr_array

    zoomed = ndimage.zoom(np.eye(before), (after / before, 1), order=order, mode="nearest", grid_mode=True)
    zoomed[np.abs(zoomed) < NEGLIGIBLE] = 0
    return csr_array(zoomed.astype(np.float32))


def _along(volume: Floats, axis: int, weights: csr_array) -> Floats:
    """Multiply a matrix along one axis."""
    after, (slices, height, width) = weights.shape[0], volume.shape
    if axis == 0:
        return (weights @ volume.reshape(slices, height * width)).reshape(after, height, width)
    result = np.empty((slices, after, width) if axis == 1 else (slices, height, after), np.float32)
    for before, target in zip(volume, result, strict=True):
        target[...] = weights @ before if axis == 1 else (weights @ before.T).T
    return result


def _range(read: Callable[[slice], Floats], slices: int) -> tuple[np.float32, np.float32]:
    parts = (read(slice(start, min(start + SLAB, slices))) for start in range(0, slices, SLAB))
    limits = [(part.min(), part.max()) for part in parts]
    return min(low for low, _ in limits), max(high for _, high in limits)


def _step(before: int, after: int, order: int, box: slice) -> tuple[slice, slice, csr_array | None]:
    """Part of the source that is needed, part of the target that ``box`` reaches, and the matrix between them."""
    if before == after:
        return box, box, None
    weights = _weights(before, after, order)
    target = _span(np.flatnonzero(np.diff(weights[:, box].indptr)))
    source = _span(weights[target].indices)
    return source, target, weights[target, source]


def _span(indices: NDArray[np.integer]) -> slice:
    """From the lowest to the highest index; empty if there is none (a coarser grid can skip a voxel)."""
    return slice(int(indices.min()), int(indices.max()) + 1) if indices.size else slice(0, 0)
