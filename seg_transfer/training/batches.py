"""Patches from the preprocessed store.

A batch depends on the random seed and the step alone, so that a resumed training sees the same batches.

A patch larger than its case has the case in the middle and zeros around it, as in prediction. The label there is
``IGNORE``, as it is where nothing is annotated, so that the loss does not count padding as background. A 2.5D stack at
the border repeats the edge slice instead.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg_transfer.planning.fields import Triple
from seg_transfer.planning.plan import ModelPlan, Plan
from seg_transfer.preprocessing.extent import unknown_position
from seg_transfer.preprocessing.locations import LocationKey
from seg_transfer.preprocessing.store import Store
from seg_transfer.training.losses import IGNORE

logger = logging.getLogger(__name__)

Stream = Literal["train", "validate", "recalibrate", "augment"]
STREAMS: tuple[Stream, ...] = ("train", "validate", "recalibrate", "augment")
READ_AHEAD = 2
SHARE_OF_FREE_MEMORY = 0.25
OPEN_CASES = 16
"""Cases that a sampler keeps open: blocks read from an open case stay mapped, and opening one takes a fraction of the
time of reading a patch."""


POSITION_SHIFT, POSITION_SCALE, POSITION_UNKNOWN = 0.1, 0.15, 0.25
"""Standard deviation of the shift of a training patch's position maps, largest change of their scale, and share of
patches without any: images that show less of the body are predicted without (docs/log.md, 2026-11-28)."""


class Batch(NamedTuple):
    """Image ``(batch, channel, slice, u, v)`` float32, label ``(batch, slice, u, v)`` int64 (one slice in 2.5D).

    The image's last channels are position maps if the plan's model has positions.
    """

    image: Tensor
    label: Tensor

    def pinned(self) -> Batch:
        """The batch in page-locked memory."""
        return Batch(self.image.pin_memory(), self.label.pin_memory())


class PatchSampler:
    """Draws batches of patches from cases of a store.

    A share of the patches is centred on a voxel with a label. The label is drawn first, uniformly from those in any of
    the cases, then a case with it, then one of its voxels: every label is seen equally often, also small ones and ones
    that few cases have (``bench/imbalance.py``). The other patches lie anywhere, equally often in each case. With an
    ignore label these are centred on annotated voxels of any class, background included.

    A batch repeats a case only if there are too few cases, or if no other case has the label drawn.

    Args:
        store: The preprocessed cases.
        cases: Identifiers of the cases to draw from.
        model: The plan's model: patch and configuration.
        batch_size: Patches per batch.
        foreground_share: Share of patches centred on a label.
        seed: Random seed.
        cache_bytes: Cases are decompressed into memory if all of them fit into this. Otherwise patches are read from
            disk and only the cases used last stay open, so that the number of cases is not limited.
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
        self.middle_slice_only, self.position = model.configuration != "3d", model.position
        self.not_annotated = store.data.not_annotated
        records = [(case.shape, case.voxels) for case in map(store.case, cases)]
        self._shapes = [shape for shape, _ in records]
        self.cached = sum(map(math.prod, self._shapes)) * (4 * len(store.data.channels) + 2) <= cache_bytes
        self._open = lru_cache(OPEN_CASES)(lambda index: store.case(cases[index]))
        self._cache = [(case.image[:], case.label[:]) for case in map(store.case, cases)] if self.cached else []
        cases_with = {
            label: [index for index, (_, voxels) in enumerate(records) if voxels[label]]
            for label in range(1, len(store.data.labels))
        }
        self.cases_with = {label: indices for label, indices in cases_with.items() if indices}
        """Class index -> indices of the cases that have it."""
        annotated = [index for index, (_, voxels) in enumerate(records) if sum(voxels[: self.not_annotated])]
        self._annotated_cases = annotated or list(range(len(cases)))

    def batch(self, step: int, stream: Stream = "train", rows: slice = slice(None)) -> Batch:
        """The batch of one step.

        Args:
            step: Counted from 0.
            stream: Batches of different streams are independent.
            rows: The samples of the batch to read; each is the same as in the whole batch.
        """
        generator = seeded_generator(self.seed, stream, step)
        # The share holds on average, and as closely as possible in each batch.
        count = int(self.foreground_share * self.batch_size + generator.random()) if self.cases_with else 0
        anywhere = _spread(self._annotated_cases, self.batch_size - count, generator)
        centre: LocationKey | None = None if self.not_annotated is None else "annotated"
        starts = [(case, self._start(case, centre, generator)) for case in anywhere]
        for case, label in self.foreground_patches(count, anywhere, generator):
            starts.append((case, self._start(case, label, generator)))
        images, labels = zip(*(self._read(case, start) for case, start in starts[rows]), strict=True)
        if self.position:
            jitter = seeded_generator(self.seed, stream, step, "position") if stream == "train" else None
            moves = [_position_move(jitter) for _ in starts]
            maps = [self._position(*start, move) for start, move in zip(starts[rows], moves[rows], strict=True)]
            images = tuple(np.concatenate(pair) for pair in zip(images, maps, strict=True))
        return Batch(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))

    def foreground_patches(
        self, count: int, used: Sequence[int], generator: np.random.Generator
    ) -> list[tuple[int, int]]:
        """Case and label of each patch that is centred on a label; cases not yet used are preferred."""
        chosen: list[tuple[int, int]] = []
        for label in _spread(list(self.cases_with), count, generator):
            in_batch = {*used, *(case for case, _ in chosen)}
            cases = [case for case in self.cases_with[label] if case not in in_batch] or self.cases_with[label]
            chosen.append((cases[generator.integers(len(cases))], label))
        return chosen

    def _start(self, case: int, centre: LocationKey | None, generator: np.random.Generator) -> Triple:
        """Lowest corner of a patch: around a random voxel of ``centre`` as far as the patch fits, or anywhere."""
        voxels = () if centre is None else self._open(case).locations[centre]
        middle = voxels[generator.integers(len(voxels))] if len(voxels) else None
        start = []
        for axis, (size, patch) in enumerate(zip(self._shapes[case], self.patch, strict=True)):
            if axis == 0 and self.middle_slice_only:
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
        image, label = self._cache[case] if self.cached else (self._open(case).image, self._open(case).label)
        box, around = _overlap(start, self.patch, self._shapes[case])
        patch = image[(slice(None), *box)]
        patch = np.pad(
            patch, [(0, 0), around[0], (0, 0), (0, 0)], mode="edge" if self.middle_slice_only else "constant"
        )
        patch = np.pad(patch, [(0, 0), (0, 0), *around[1:]])
        if self.middle_slice_only:
            middle = start[0] + self.patch[0] // 2
            box[0], around[0] = slice(middle, middle + 1), (0, 0)
        classes = label[tuple(box)].astype(np.int64)
        if self.not_annotated is not None:
            classes[classes == self.not_annotated] = IGNORE
        return patch, np.pad(classes, around, constant_values=IGNORE)

    def _position(self, case: int, start: Triple, move: _Move | None) -> NDArray[np.float32]:
        """Position maps of a patch, shifted and stretched, or unknown without a move."""
        if move is None:
            return unknown_position(self.patch)
        return self._open(case).extent.position(start, self.patch, **move)


class ReadAhead:
    """Reads the batches of the next steps in a thread while the device computes.

    Args:
        read: Step -> batch.
        workers: 0: read every batch when it is needed.
        pinned: Whether batches lie in page-locked memory, from which a GPU copies them while it computes.
    """

    def __init__(self, read: Callable[[int], Batch], *, workers: int, pinned: bool = False) -> None:
        self.read = (lambda step: read(step).pinned()) if pinned else read
        # one thread: an open blosc2 array must not be read from two
        self._pool = ThreadPoolExecutor(1) if workers else None
        self._pending: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        """The batch of this step."""
        if self._pool is None:
            return self.read(step)
        for ahead in range(step, step + READ_AHEAD + 1):
            if ahead not in self._pending:
                self._pending[ahead] = self._pool.submit(self.read, ahead)
        return self._pending.pop(step).result()

    def close(self) -> None:
        """Stop reading."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def seeded_generator(seed: int, stream: Stream, step: int, name: str = "") -> np.random.Generator:
    """Random generator of a step of a stream, or of a named part of it."""
    part = [zlib.crc32(name.encode())] if name else []
    return np.random.default_rng([seed, STREAMS.index(stream), step, *part])


class _Move(TypedDict, total=False):
    shift: list[float]
    scale: list[float]


def _position_move(jitter: np.random.Generator | None) -> _Move | None:
    """How the position maps of a patch are moved: a little in training, or None for unknown ones; else not at all."""
    if jitter is None:
        return _Move()
    if jitter.random() < POSITION_UNKNOWN:
        return None
    shift, scale = jitter.normal(0, POSITION_SHIFT, 3), jitter.uniform(1 - POSITION_SCALE, 1 + POSITION_SCALE, 3)
    return _Move(shift=shift.tolist(), scale=scale.tolist())


def sampler_of(plan: Plan, store: Store, cases: Sequence[str], *, seed: int, processes: int = 1) -> PatchSampler:
    """The sampler of a plan's training for some of the cases, of which free memory holds a share.

    Args:
        plan: The plan.
        store: The preprocessed cases.
        cases: Identifiers of the cases to draw from.
        seed: Random seed.
        processes: How many of them share the memory of this machine.
    """
    sampler = PatchSampler(
        store,
        cases,
        plan.model,
        batch_size=plan.recipe.batch_size,
        foreground_share=plan.recipe.foreground_share,
        seed=seed,
        cache_bytes=int(SHARE_OF_FREE_MEMORY * psutil.virtual_memory().available / processes),
    )
    logger.debug(f"{len(cases)} cases, {'held in memory' if sampler.cached else 'read patch by patch'}")
    return sampler


def _spread(items: Sequence[int], count: int, generator: np.random.Generator) -> list[int]:
    """Items in random order, each as often as any other plus or minus one."""
    if not count:
        return []
    rounds = [generator.permutation(len(items)) for _ in range(-(-count // len(items)))]
    return [items[index] for index in np.concatenate(rounds)[:count]]


def _overlap(start: Triple, patch: Triple, shape: Triple) -> tuple[list[slice], list[tuple[int, int]]]:
    """The part of a patch inside its case, and the padding before and after it along each axis."""
    box, around = [], []
    for first, length, size in zip(start, patch, shape, strict=True):
        inside = slice(max(first, 0), min(first + length, size))
        box.append(inside)
        around.append((inside.start - first, first + length - inside.stop))
    return box, around
