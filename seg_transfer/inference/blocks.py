"""Predicts an image that is larger than memory, block by block.

A block is predicted with the windows that the whole image has, so that its labels are those of the whole image, up to
rounding. Windows that reach into several blocks are predicted for each of them, so that blocks are as large as memory
allows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.chunked_image import boxes
from seg_transfer.data.geometry import Box
from seg_transfer.inference.classes import decide, label_values
from seg_transfer.inference.label_map import fill_box, steps_between
from seg_transfer.inference.predictor import PartOfCase, Predictor
from seg_transfer.inference.sliding_window import Part
from seg_transfer.planning.fields import Triple
from seg_transfer.preprocessing.chunked_case import PIECE_VOXELS, ChunkedCase
from seg_transfer.preprocessing.resample import Neighbours
from seg_transfer.util.units import bytes_text

BLOCK_SHARE = 0.5
"""Share of the allowed memory that a block may need; the windows of one call may take the other half."""
SPLINE = 16
"""Voxels around a part that cubic resampling reads at most."""
COPIES = 3
"""Copies of a block's image in memory at a time: chunks as they are read, normalized, and between two axes."""


def blocks_of(predictor: Predictor, case: ChunkedCase, chunks: Triple) -> list[Box]:
    """The largest blocks ``(x, y, z)`` that fit into the allowed memory; they cover the image.

    Args:
        predictor: The models.
        case: The case.
        chunks: Voxels ``(x, y, z)`` of the chunks that label maps are written in.

    Raises:
        UserError: If a block of one chunk does not fit.
    """
    shape, allowed = case.image.native.shape, predictor.allowed_bytes()
    found = boxes(shape, chunks, lambda size: _bytes(predictor, case, size) <= BLOCK_SHARE * allowed)
    x, y, z = (part.stop - part.start for part in found[0])
    needed = _bytes(predictor, case, (x, y, z)) + predictor.window_bytes(allowed)
    if needed > allowed:
        what = f"a block of {x} x {y} x {z} voxels needs {bytes_text(needed)}"
        raise predictor.too_large(what, allowed, "allow more memory with --memory")
    return found


def predict_block(predictor: Predictor, case: ChunkedCase, block: Box, *, tta: bool = True) -> NDArray[np.integer]:
    """The label map ``(x, y, z)`` of a block, with the data set's values.

    Args:
        predictor: The models.
        case: The case.
        block: One of :func:`blocks_of`.
        tta: Average over the plan's mirrorings.

    Raises:
        UserError: If a chunk is damaged.
    """
    data, transform = predictor.data, case.transform
    table = label_values(data)
    labels = np.zeros([part.stop - part.start for part in block], table.dtype)
    inner = transform.cropped_box(block)
    if inner is None:
        return labels
    target = transform.canonical_box(inner)
    view = labels[tuple(slice(t.start - b.start, t.stop - b.start) for t, b in zip(target, block, strict=True))]
    steps = steps_between(transform.shape, transform.cropped_shape, transform.label_orders)
    network_box, own_steps = _source(steps, inner)
    read = predictor.windows_box(transform.shape, network_box)
    array = case.part(read)
    s, u, v = (each.start for each in read)
    part = PartOfCase(case, Part(transform.shape, (s, u, v), network_box))
    axis = predictor.slab_axis(part.place.size)
    fill_box(
        view.transpose(transform.axes),
        predictor.slabs(array, axis=axis, tta=tta, part=part),
        own_steps,
        lambda probabilities: table[decide(probabilities, data)],
        axis=axis,
    )
    return labels


def _bytes(predictor: Predictor, case: ChunkedCase, size: Triple) -> int:
    """Estimated memory to predict a block of ``(x, y, z)``, beside the windows of one call."""
    transform, image = case.transform, case.image
    window = predictor.longest_window
    inside, network, source = [], [], []
    for number, axis in enumerate(transform.axes):
        cropped, resampled = transform.cropped_shape[number], transform.shape[number]
        ratio = resampled / cropped
        inside.append(min(resampled, math.ceil(min(size[axis], cropped) * ratio) + 2))
        network.append(min(resampled, inside[-1] + 2 * window[number]))
        source.append(min(cropped, math.ceil(network[-1] / ratio) + (0 if ratio == 1 else 2 * SPLINE)))
    read = min(math.prod(source), 2 * PIECE_VOXELS) * (image.channels * image.dtype.itemsize + 4 * COPIES)
    made = math.prod(network) * 4 * (image.channels + 1)
    s, u, v = inside
    sums = predictor.sums_bytes((s, u, v), predictor.slab_axis((s, u, v)))
    labels = math.prod(size) * label_values(predictor.data).dtype.itemsize
    return read + made + sums + labels


def _source(steps: list[Neighbours | None], inner: Box) -> tuple[Box, list[Neighbours | None]]:
    """What a box of the crop is resampled from, and the steps from there."""
    parts: list[slice] = []
    own: list[Neighbours | None] = []
    for step, box in zip(steps, inner, strict=True):
        if step is None:
            parts.append(box)
            own.append(None)
        else:
            lower, upper, share = step.lower[box], step.upper[box], step.share[box]
            first = int(lower.min())
            parts.append(slice(first, int(upper.max()) + 1))
            own.append(Neighbours(lower - first, upper - first, share))
    return (parts[0], parts[1], parts[2]), own
