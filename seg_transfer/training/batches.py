"""Patches from the preprocessed store.

The batch of a step depends on the seed and the step alone, so that a resumed training sees what it would have seen.

A patch larger than its case has the case in the middle and zeros around it, as in prediction; the label says ``IGNORE``
there, so that the loss does not take padding for background, as it does where nothing is annotated. A 2.5D stack at the
border repeats the edge slice instead.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan
from seg_transfer.preprocessing.locations import LocationKey
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

    A share of the patches is centred on a voxel of a label: first the label is drawn, uniformly from those that any of
    the cases has, then a case that has it, then one of its voxels. So every label is seen as often as any other,
    however small it is and however few cases have it (``bench/imbalance.py``). The other patches lie anywhere in any
    case, each case as likely as any other, whatever its size.

    Where the plan has ``ignore``, a patch without an annotated voxel would teach nothing: the other patches then are
    centred on annotated voxels of any class, background included, in those cases that have some.

    A batch repeats a case only where it cannot be avoided among the other patches, and where the label drawn is in no
    other case among those that are centred on a label.

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
        self.not_annotated = store.data.not_annotated
        figures = [(case.shape, case.voxels) for case in map(store.case, cases)]
        self._shapes = [shape for shape, _ in figures]
        self.cached = sum(map(math.prod, self._shapes)) * (4 * len(store.data.channels) + 2) <= cache_bytes
        self._open = lru_cache(OPEN_CASES)(lambda index: store.case(cases[index]))
        self._held = [(case.image[:], case.label[:]) for case in map(store.case, cases)] if self.cached else []
        holders = {
            label: [index for index, (_, voxels) in enumerate(figures) if voxels[label]]
            for label in range(1, len(store.data.labels))
        }
        self.holders = {label: positions for label, positions in holders.items() if positions}
        """Class index -> the cases, by their position, that have it."""
        annotated = [index for index, (_, voxels) in enumerate(figures) if sum(voxels[: self.not_annotated])]
        self._annotated_cases = annotated or list(range(len(cases)))

    def batch(self, step: int, stream: Stream = "train") -> Batch:
        """The batch of one step; always the same one.

        Args:
            step: Counted from 0.
            stream: Batches of different streams have nothing to do with each other.
        """
        generator = seeded_generator(self.seed, stream, step)
        # the share holds on average, and as closely as possible in each batch
        on_label = int(self.foreground_share * self.batch_size + generator.random()) if self.holders else 0
        anywhere = _spread(self._annotated_cases, self.batch_size - on_label, generator)
        starts = [(case, self._start(case, generator, self._anywhere(case, generator))) for case in anywhere]
        for case, label in self.labelled(on_label, anywhere, generator):
            starts.append((case, self._start(case, generator, self._place(case, label, generator))))
        images, labels = zip(*(self._read(case, start) for case, start in starts), strict=True)
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))

    def labelled(self, count: int, taken: Sequence[int], generator: np.random.Generator) -> list[tuple[int, int]]:
        """Case and label of each patch that is centred on a label.

        Args:
            count: How many.
            taken: Cases that the batch has already; others are preferred.
            generator: Random generator.
        """
        chosen: list[tuple[int, int]] = []
        for label in _spread(list(self.holders), count, generator):
            used = {*taken, *(case for case, _ in chosen)}
            cases = [case for case in self.holders[label] if case not in used] or self.holders[label]
            chosen.append((cases[generator.integers(len(cases))], label))
        return chosen

    def _anywhere(self, case: int, generator: np.random.Generator) -> NDArray[np.int32] | None:
        """Where a patch is centred that is not centred on a label; None: it may lie anywhere."""
        return None if self.not_annotated is None else self._place(case, "annotated", generator)

    def _place(self, case: int, of: LocationKey, generator: np.random.Generator) -> NDArray[np.int32] | None:
        places = self._open(case).locations[of]
        return places[generator.integers(len(places))] if len(places) else None

    def _start(self, case: int, generator: np.random.Generator, middle: NDArray[np.int32] | None) -> Triple:
        """Lowest corner of a patch: around ``middle`` as far as it fits, or anywhere."""
        start = []
        for axis, (size, patch) in enumerate(zip(self._shapes[case], self.patch, strict=True)):
            if axis == 0 and self.only_middle:
                target = int(generator.integers(size)) if middle is None else int(middle[0])
                start.append(target - patch // 2)
            elif size <= patch:
                start.append(-((patch - size) // 2))
            elif middle is None:
                start.append(int(generator.integers(size - patch + 1)))
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
        classes = label[tuple(box)].astype(np.int64)
        if self.not_annotated is not None:
            classes[classes == self.not_annotated] = IGNORE
        return patch, np.pad(classes, around, constant_values=IGNORE)


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


def seeded_generator(seed: int, stream: Stream, step: int, name: str = "") -> np.random.Generator:
    """Random numbers of one step of one stream, and within it of what bears a name."""
    named = [zlib.crc32(name.encode())] if name else []
    return np.random.default_rng([seed, STREAMS.index(stream), step, *named])


def _spread(items: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Items in random order, none of them again before all of the others; each is as likely as any other."""
    if not count:
        return []
    rounds = [generator.permutation(len(items)) for _ in range(-(-count // len(items)))]
    return [items[index] for index in np.concatenate(rounds)[:count]]


def _overlap(start: Triple, patch: Triple, shape: Triple) -> tuple[list[slice], list[tuple[int, int]]]:
    """Part of a patch that lies in the case, and how much to pad before and after it along each axis."""
    box, around = [], []
    for first, length, size in zip(start, patch, shape, strict=True):
        inside = slice(max(first, 0), min(first + length, size))
        box.append(inside)
        around.append((inside.start - first, first + length - inside.stop))
    return box, around
