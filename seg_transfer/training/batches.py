"""Patches from the preprocessed store.

The batch of a step depends on the seed and the step alone, so that a resumed training sees what it would have seen.

A patch larger than its case has the case in the middle and zeros around it, as in prediction; the label says ``IGNORE``
there, so that the loss does not take padding for background. A 2.5D stack at the border repeats the edge slice instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.planning.plan import ModelPlan, Triple
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.losses import IGNORE

Stream = Literal["train", "validate", "recalibrate", "augment"]
STREAMS: tuple[Stream, ...] = ("train", "validate", "recalibrate", "augment")
READ_AHEAD = 2
OPEN_CASES = 16
"""Cases that a sampler keeps open. Opening one takes a fraction of the time of reading a patch; while it is open, what
was read of it stays mapped."""


class Batch(NamedTuple):
    """Image ``(batch, channel, slice, u, v)`` float32, label ``(batch, slice, u, v)`` int64 (one slice in 2.5D)."""

    image: Tensor
    label: Tensor


class PatchSampler:
    """Draws batches of patches from some cases of a store.

    Every case is as likely as any other, whatever its size, and a batch repeats a case only when it has more samples
    than there are cases. A share of the patches is centred on a voxel of a label, drawn uniformly from the labels that
    the case has, so that small ones are seen; the others lie anywhere.

    Args:
        store: Where the cases are.
        cases: Their identifiers.
        model: The plan's model: patch and configuration.
        batch_size: Samples.
        foreground_share: Share of patches centred on a label.
        seed: Decides every batch.
        cache_bytes: The cases are held decompressed in memory if they need no more than this. Otherwise patches are
            read from disk, and only the cases used last are kept open, so that neither memory nor the limit on open
            files bounds their number.
    """

    def __init__(
        self,
        store: Store,
        cases: Sequence[str],
        model: ModelPlan,
        *,
        batch_size: int,
        foreground_share: float,
        seed: int,
        cache_bytes: int,
    ) -> None:
        self.patch, self.batch_size, self.foreground_share, self.seed = model.patch, batch_size, foreground_share, seed
        self.only_middle = model.configuration != "3d"
        channels = len(store.data.channels)
        self._shapes = [store.case(case).shape for case in cases]
        voxels = sum(math.prod(shape) for shape in self._shapes)
        self.cached = voxels * (4 * channels + 2) <= cache_bytes
        self._open = lru_cache(OPEN_CASES)(lambda index: store.case(cases[index]))
        self._held = [(case.image[:], case.label[:]) for case in map(store.case, cases)] if self.cached else []

    def batch(self, step: int, stream: Stream = "train") -> Batch:
        """The batch of one step; always the same one.

        Args:
            step: Counted from 0.
            stream: Batches of different streams have nothing to do with each other.
        """
        draw = generator(self.seed, stream, step)
        rounds = -(-self.batch_size // len(self._shapes))
        order = np.concatenate([draw.permutation(len(self._shapes)) for _ in range(rounds)])[: self.batch_size]
        # the share holds on average, and as closely as possible in each batch
        on_label = int(self.foreground_share * self.batch_size + draw.random())
        samples = [
            self._read(case, self._start(case, draw, centred=index < on_label)) for index, case in enumerate(order)
        ]
        images, labels = zip(*samples, strict=True)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))

    def _start(self, case: int, draw: np.random.Generator, *, centred: bool) -> Triple:
        shape, locations = self._shapes[case], list(self._open(case).locations.values()) if centred else []
        if locations:
            places = locations[draw.integers(len(locations))]
            middle = places[draw.integers(len(places))]
        else:
            middle = None
        start = []
        for axis, (size, patch) in enumerate(zip(shape, self.patch, strict=True)):
            if axis == 0 and self.only_middle:
                target = int(draw.integers(size)) if middle is None else int(middle[0])
                start.append(target - patch // 2)
            elif size <= patch:
                start.append(-((patch - size) // 2))
            elif middle is None:
                start.append(int(draw.integers(size - patch + 1)))
            else:
                start.append(min(max(int(middle[axis]) - patch // 2, 0), size - patch))
        return start[0], start[1], start[2]

    def _read(self, case: int, start: Triple) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        image, label = self._held[case] if self.cached else (self._open(case).image, self._open(case).label)
        box, around = _overlap(start, self.patch, self._shapes[case])
        slices, plane = [(0, 0), around[0], (0, 0), (0, 0)], [(0, 0), (0, 0), *around[1:]]
        patch = np.pad(image[(slice(None), *box)], slices, mode="edge" if self.only_middle else "constant")
        patch = np.pad(patch, plane)
        if self.only_middle:
            middle = start[0] + self.patch[0] // 2
            box[0], around[0] = slice(middle, middle + 1), (0, 0)
        return patch, np.pad(label[tuple(box)].astype(np.int64), around, constant_values=IGNORE)


class ReadAhead:
    """Makes the batches of the next steps in a thread while the device works on this one.

    Args:
        make: Step -> batch.
        workers: 0: make every batch when it is asked for.
    """

    def __init__(self, make: Callable[[int], Batch], *, workers: int) -> None:
        self.make = make
        # one thread: an open blosc2 array must not be read from two
        self._pool = ThreadPoolExecutor(1) if workers else None
        self._pending: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        if self._pool is None:
            return self.make(step)
        for ahead in range(step, step + READ_AHEAD + 1):
            if ahead not in self._pending:
                self._pending[ahead] = self._pool.submit(self.make, ahead)
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Stop reading."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def generator(seed: int, stream: Stream, step: int) -> np.random.Generator:
    """Random numbers of one step of one stream."""
    return np.random.default_rng([seed, STREAMS.index(stream), step])


def _overlap(start: Triple, patch: Triple, shape: Triple) -> tuple[list[slice], list[tuple[int, int]]]:
    """Part of a patch that lies in the case, and how much to pad before and after it along each axis."""
    box, around = [], []
    for first, length, size in zip(start, patch, shape, strict=True):
        inside = slice(max(first, 0), min(first + length, size))
        box.append(inside)
        around.append((inside.start - first, first + length - inside.stop))
    return box, around
