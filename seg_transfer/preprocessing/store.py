"""The preprocessed store: one folder per case, compressed so that a patch is read without the rest.

``<folder>/plan-data.json`` is the plan's data part the store was made with; a store made with another is refused.
``<folder>/<case>/`` holds ``image.b2nd`` ``(channel, slice, u, v)`` float32, ``label.b2nd`` ``(slice, u, v)`` class
indices (the number of labels where nothing is annotated), ``locations.npy`` and ``case.json``. It appears whole or not
at all, so what is there is finished. A case is written slab by slab, and only the blocks of a patch and the locations
drawn are ever read.

Codec, chunks and blocks are measured in ``bench/preprocessing.py``: of a 72x512x512 volume, LZ4 with bitshuffle in
these blocks reads a 2D, 2.5D or 3D patch in 0.4, 0.7 and 1.9 ms, zstd in twice that for a store a tenth smaller.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pydantic import Field

from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.locations import Place, count_classes, sample_locations
from seg_transfer.preprocessing.store_record import STORE_FILE, StoreRecord, store_data
from seg_transfer.util.records import JsonRecord

CHUNK, BLOCK = (16, 128, 128), (4, 32, 32)
CASE_FILE = "case.json"


class CaseRecord(JsonRecord):
    """``case.json`` of a preprocessed case."""

    noun: ClassVar[str] = "preprocessed case"
    if_missing: ClassVar[str] = "run `segtl preprocess`"
    if_wrong: ClassVar[str] = "delete this folder, and run the same command again"

    version: Literal[1] = 1
    voxels: tuple[int, ...] = Field(description="of each class, voxels that are not annotated last")
    locations: dict[str, int] = Field(description="class index or annotated -> number of its locations")
    transform: CaseTransform
    sources: tuple[str, ...] = Field(default=(), description="stamps of the files that it was made from")


class StoredCase:
    """One preprocessed case; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder = folder.name, folder

    @cached_property
    def image(self) -> blosc2.NDArray:
        """Normalized image ``(channel, slice, u, v)`` float32; slicing reads the blocks needed."""
        return self._array("image.b2nd")

    @cached_property
    def label(self) -> blosc2.NDArray:
        """Class indices ``(slice, u, v)``, uint8 (uint16 beyond 256 classes)."""
        return self._array("label.b2nd")

    @property
    def transform(self) -> CaseTransform:
        """How the case came onto this grid."""
        return self._record.transform

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(slice, u, v)``."""
        return self.transform.shape

    @property
    def voxels(self) -> tuple[int, ...]:
        """Number of voxels of each class, background first; where the plan has ``ignore``, those without one last."""
        return self._record.voxels

    @property
    def sources(self) -> tuple[str, ...]:
        """Stamps of the files the case was made from; none in stores of before they were kept."""
        return self._record.sources

    @cached_property
    def locations(self) -> dict[Place, NDArray[np.int32]]:
        """What lies there -> voxels ``(n, 3)`` in ``(slice, u, v)``: all, or a sample of 10,000.

        Keys are the indices of the classes that occur, without background, and in a store whose plan has ``ignore``
        also ``"annotated"``: voxels of any class. They stay on disk and are read when indexed: 25 labels in 200 cases
        would take 600 MB.
        """
        counts = self._record.locations
        with self._whole():
            if not counts:
                return {}
            places = np.load(self.folder / "locations.npy", mmap_mode="r")
            ends = np.cumsum(list(counts.values()), dtype=np.int64)
            keys: list[Place] = ["annotated" if key == "annotated" else int(key) for key in counts]
            return dict(zip(keys, np.split(places, ends[:-1]), strict=True))

    @cached_property
    def _record(self) -> CaseRecord:
        with self._whole():
            return CaseRecord.from_json((self.folder / CASE_FILE).read_bytes(), where=CASE_FILE)

    def _array(self, name: str) -> blosc2.NDArray:
        with self._whole():
            return blosc2.open(str(self.folder / name), mode="r", mmap_mode="r")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say which case it is whose files are damaged or were deleted since."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "delete this folder, and run the same command again"
            raise UserError(f"the preprocessed case is damaged: {cause}", where=self.folder, hint=hint) from error


class Store:
    """All preprocessed cases of one plan's data part; made by :meth:`create`, read through :meth:`open`."""

    def __init__(self, folder: Path, data: DataPlan) -> None:
        self.folder, self.data = folder, data

    @classmethod
    def create(cls, folder: Path, data: DataPlan) -> Store:
        """Make the folder, or open it if it is there.

        Raises:
            UserError: If another plan's store lies there.
        """
        if (folder / STORE_FILE).is_file():
            return cls.open(folder, data)
        StoreRecord(data=data).save(folder / STORE_FILE)
        return cls(folder, data)

    @classmethod
    def open(cls, folder: Path, data: DataPlan) -> Store:
        """Open a store for reading.

        Raises:
            UserError: If there is none, or it was made with another data part than this plan's.
        """
        made_with = store_data(folder / STORE_FILE)
        different = [name for name in DataPlan.model_fields if getattr(made_with, name) != getattr(data, name)]
        if different:
            what = f"the store was made with another data part than the plan's, which differs in {', '.join(different)}"
            raise UserError(what, where=folder, hint=StoreRecord.if_wrong)
        return cls(folder, data)

    def cases(self) -> list[str]:
        """Identifiers of the cases that are there, sorted."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def case(self, case_id: str) -> StoredCase:
        """One case.

        Raises:
            UserError: If it is not in the store.
        """
        folder = self.folder / case_id
        if not folder.is_dir():
            raise UserError(f"case {case_id} is not preprocessed", where=self.folder, hint="run `segtl preprocess`")
        return StoredCase(folder)

    def add(
        self,
        case_id: str,
        image: Iterable[tuple[int, int, NDArray[np.float32]]],
        label: NDArray[np.unsignedinteger],
        transform: CaseTransform,
        *,
        sources: Sequence[str] = (),
    ) -> None:
        """Write one case, in place of one made from other files.

        One made from the same files stays: another process, training another fold, was quicker and may be reading it.

        Args:
            case_id: Name of its folder.
            image: Slabs of ``(channel, slice, u, v)`` as :meth:`CaseTransform.slabs` gives them: channel, first slice,
                ``(slice, u, v)``.
            label: Class indices ``(slice, u, v)`` of the plan's ``stored_values``.
            transform: How both came onto this grid.
            sources: Stamps of the files the case was made from.
        """
        temporary = self.folder / f".{os.getpid()}-{case_id}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            stored = _empty(temporary / "image.b2nd", (len(transform.scalings), *transform.shape), np.float32)
            for channel, start, slab in image:
                stored[channel, start : start + len(slab)] = slab
            _empty(temporary / "label.b2nd", label.shape, label.dtype)[...] = label
            # Seeded by the name: a case's sample does not depend on which others there are, nor on the order.
            counts = count_classes(label, len(self.data.stored_values))
            seed = zlib.crc32(case_id.encode())
            found = sample_locations(label, counts, seed=seed, not_annotated=self.data.not_annotated)
            if found:
                np.save(temporary / "locations.npy", np.concatenate(list(found.values())))
            record = CaseRecord(
                voxels=tuple(counts.sum(axis=0).tolist()),
                locations={str(of): len(places) for of, places in found.items()},
                transform=transform,
                sources=tuple(sources),
            )
            record.save(temporary / CASE_FILE)
            place = self.folder / case_id
            if place.is_dir() and StoredCase(place).sources == tuple(sources):
                return
            shutil.rmtree(place, ignore_errors=True)
            temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _empty(path: Path, shape: Sequence[int], kind: DTypeLike) -> blosc2.NDArray:
    leading = len(shape) - 3
    return blosc2.empty(
        tuple(shape),
        dtype=np.dtype(kind),
        chunks=_at_most(CHUNK, shape, leading),
        blocks=_at_most(BLOCK, shape, leading),
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1},
        urlpath=str(path),
        mode="w",
    )


def _at_most(size: tuple[int, int, int], shape: Sequence[int], leading: int) -> tuple[int, ...]:
    return (1,) * leading + tuple(map(min, size, shape[leading:]))
