"""Slabs of probabilities to labels on the file's grid, as :mod:`seg_transfer.inference.label_map` does, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from seg_transfer.planning.fields import Triple
from seg_transfer.portable.sliding_window import Floats, Slab
from seg_transfer.preprocessing.resample import Neighbours, neighbours


def fill_labels(
    labels: NDArray,
    slabs: Iterable[Slab],
    shape: Triple,
    orders: Triple,
    decide: Callable[[NDArray], NDArray],
    *,
    axis: int,
) -> None:
    """Resample probabilities to the grid of ``labels`` and write the decided labels into it.

    Args:
        labels: ``(slice, u, v)``, changed in place.
        slabs: Slabs of the network's grid, adjoining and ascending along ``axis``.
        shape: ``(slice, u, v)`` of the network's grid, which covers the same box as ``labels``.
        orders: Spline order along each axis, 0 or 1.
        decide: Probabilities ``(output, ...)`` -> values ``(...)`` of the label map.
        axis: Axis of ``(slice, u, v)`` along which the slabs follow each other.
    """
    steps = [neighbours(*each) for each in zip(shape, labels.shape, orders, strict=True)]
    others = [step for other, step in enumerate(steps) if other != axis]
    lower, upper, share = steps[axis]
    done = 0
    source: dict[int, Floats] = {}
    for start, slab in slabs:
        stop = start + slab.shape[axis + 1]
        source = {index: held for index, held in source.items() if index == start - 1}
        source |= {start + step: part for step, part in enumerate(np.moveaxis(slab, axis + 1, 0))}
        while done < len(upper) and upper[done] < stop:
            probabilities = _mean(source[lower[done]], source[upper[done]], share[done])
            for dim, step in enumerate(others, start=1):
                probabilities = _interpolated(probabilities, dim, step)
            labels[(slice(None),) * axis + (done,)] = decide(probabilities)
            done += 1


def _interpolated(probabilities: Floats, dim: int, step: Neighbours) -> Floats:
    low = probabilities.take(step.lower, dim)
    if not step.share.any():
        return low
    share = step.share[:, None] if dim == 1 else step.share
    return _mean(low, probabilities.take(step.upper, dim), share)


def _mean(low: Floats, high: Floats, share: NDArray[np.float32] | np.float32) -> Floats:
    """``low`` where ``share`` is 0, ``high`` where it is 1, linear in between; rounded as torch does it."""
    difference = high - low
    return np.where(share < 0.5, low + share * difference, high - difference * (1 - share))
