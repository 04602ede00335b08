"""Slabs of probabilities on the network's grid to labels on the file's grid, slice by slice.

Probabilities are interpolated linearly, so that one slice needs two slices of the source, and memory beside the slabs
is a few slices of all outputs. The grids are those of
:class:`~seg_transfer.preprocessing.case_transform.CaseTransform`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.planning.fields import Triple
from seg_transfer.preprocessing.resample import Neighbours, neighbours

Slab = tuple[int, Tensor]
"""First index along an axis, and probabilities ``(output, slice, u, v)``."""


def fill_labels(
    labels: NDArray,
    slabs: Iterable[Slab],
    shape: Triple,
    orders: Triple,
    decide: Callable[[NDArray], NDArray],
    *,
    axis: int,
    seen: Callable[[int, int, NDArray], None] | None = None,
) -> None:
    """Resample probabilities to the grid of ``labels`` and write the decided labels into it.

    Args:
        labels: ``(slice, u, v)``, changed in place.
        slabs: Slabs of the network's grid, adjoining and ascending along ``axis``. Each is read before the next is
            requested.
        shape: ``(slice, u, v)`` of the network's grid, which covers the same box as ``labels``.
        orders: Spline order along each axis, 0 or 1.
        decide: Probabilities ``(output, ...)`` -> values ``(...)`` of the label map.
        axis: Axis of ``(slice, u, v)`` along which the slabs follow each other.
        seen: Called with the axis, each slice's index and its probabilities, once its labels are written.
    """
    fill_box(labels, slabs, steps_between(shape, labels.shape, orders), decide, axis=axis, seen=seen)


def steps_between(before: Sequence[int], after: Sequence[int], orders: Sequence[int]) -> list[Neighbours | None]:
    """Resampling along each axis; None where the length stays."""
    sizes = zip(before, after, orders, strict=True)
    return [None if size == new else neighbours(size, new, order) for size, new, order in sizes]


@torch.inference_mode()
def fill_box(
    labels: NDArray,
    slabs: Iterable[Slab],
    steps: Sequence[Neighbours | None],
    decide: Callable[[NDArray], NDArray],
    *,
    axis: int,
    seen: Callable[[int, int, NDArray], None] | None = None,
) -> None:
    """As :func:`fill_labels`, by the steps of resampling along each axis from what the slabs cover."""
    others = [step for other, step in enumerate(steps) if other != axis]
    lower, upper, share = steps[axis] or neighbours(labels.shape[axis], labels.shape[axis], 0)
    done = 0
    last: dict[int, Tensor] = {}
    for start, slab in slabs:
        stop = start + slab.shape[axis + 1]
        source = last | {index: slab.select(axis + 1, index - start) for index in range(start, stop)}
        while done < len(upper) and upper[done] < stop:
            low, high = source[lower[done]], source[upper[done]]
            probabilities = low if share[done] == 0 else torch.lerp(low, high, float(share[done]))
            for dim, step in enumerate(others, start=1):
                probabilities = probabilities if step is None else _interpolated(probabilities, dim, step)
            values = probabilities.cpu().numpy()
            labels[(slice(None),) * axis + (done,)] = decide(values)
            if seen is not None:
                seen(axis, done, values)
            done += 1
        last = {stop - 1: source[stop - 1].clone()}  # the slab's memory is reused


def _interpolated(probabilities: Tensor, dim: int, step: Neighbours) -> Tensor:
    lower, upper, share = (torch.from_numpy(each).to(probabilities.device) for each in step)
    low = probabilities.index_select(dim, lower)
    if not step.share.any():
        return low
    return low.lerp_(probabilities.index_select(dim, upper), share[:, None] if dim == 1 else share)
