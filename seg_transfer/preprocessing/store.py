"""The preprocessed store: one folder per case, compressed so that a patch is read without the rest.

``<folder>/plan-data.json`` is the plan's data part that the store was made with; another data part is refused.
``<folder>/<case>/`` holds ``image.b2nd`` ``(channel, slice, u, v)`` float32, ``label.b2nd`` ``(slice, u, v)`` class
indices (the number of labels for voxels that are not annotated), ``locations.npy`` and ``case.json``. It is written
atomically, slab by slab. Reading a patch reads only its blocks and the sampled locations.

Codec, chunks and blocks are measured in ``bench/preprocessing.py``: from a 72x512x512 volume, LZ4 with bitshuffle in
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
from seg_transfer.preprocessing.locations import LocationKey, count_classes, sample_locations
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
    voxels: tuple[int, ...] = Field(description="number per class, voxels that are not annotated last")
    locations: dict[str, int] = Field(description="class index or annotated -> number of its locations")
    transform: CaseTransform
    sources: tuple[str, ...] = Field(default=(), description="stamps of the case's files")


class StoredCase:
    """One preprocessed case; files are read on first use."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder = folder.name, folder

    @cached_property
    def image(self) -> blosc2.NDArray:
        """Normalized image ``(channel, slice, u, v)`` float32; slicing reads only the blocks needed."""
        return self._array("image.b2nd")

    @cached_property
    def label(self) -> blosc2.NDArray:
        """Class indices ``(slice, u, v)``, uint8 (uint16 beyond 256 classes)."""
        return self._array("label.b2nd")

    @property
    def transform(self) -> CaseTransform:
        """The transform of the case to this grid."""
        return self._record.transform

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(slice, u, v)``."""
        return self.transform.shape

    @property
    def voxels(self) -> tuple[int, ...]:
        """Number of voxels of each class, background first; with an ignore label, its voxels last."""
        return self._record.voxels

    @property
    def sources(self) -> tuple[str, ...]:
        """Stamps of the case's files; empty in stores of earlier releases."""
        return self._record.sources

    @cached_property
    def locations(self) -> dict[LocationKey, NDArray[np.int32]]:
        """Class -> voxels ``(n, 3)`` in ``(slice, u, v)``: all, or a sample of 10,000.

        Keys are the indices of the foreground classes that occur and, with an ignore label, ``"annotated"``: voxels of
        any class. Arrays are read from disk when indexed: 25 labels in 200 cases would take 600 MB.
        """
        counts = self._record.locations
        with self._naming_case():
            if not counts:
                return {}
            voxels = np.load(self.folder / "locations.npy", mmap_mode="r")
            ends = np.cumsum(list(counts.values()), dtype=np.int64)
            keys: list[LocationKey] = ["annotated" if key == "annotated" else int(key) for key in counts]
            return dict(zip(keys, np.split(voxels, ends[:-1]), strict=True))

    @cached_property
    def _record(self) -> CaseRecord:
        with self._naming_case():
            return CaseRecord.from_json((self.folder / CASE_FILE).read_bytes(), where=CASE_FILE)

    def _array(self, name: str) -> blosc2.NDArray:
        with self._naming_case():
            return blosc2.open(str(self.folder / name), mode="r", mmap_mode="r")

    @contextmanager
    def _naming_case(self) -> Iterator[None]:
        """Name the case in errors about damaged or deleted files."""
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
        """Make the folder, or open it if it exists.

        Raises:
            UserError: If the folder is the store of another data part.
        """
        if (folder / STORE_FILE).is_file():
            return cls.open(folder, data)
        StoreRecord(data=data).save(folder / STORE_FILE)
        return cls(folder, data)

    @classmethod
    def open(cls, folder: Path, data: DataPlan) -> Store:
        """Open a store for reading.

        Raises:
            UserError: If there is no store, or it was made with another data part.
        """
        made_with = store_data(folder / STORE_FILE)
        different = [name for name in DataPlan.model_fields if getattr(made_with, name) != getattr(data, name)]
        if different:
            what = f"the store was made with another data part than the plan's, which differs in {', '.join(different)}"
            raise UserError(what, where=folder, hint=StoreRecord.if_wrong)
        return cls(folder, data)

    def cases(self) -> list[str]:
        """Identifiers of the stored cases, sorted."""
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
        """Write one case, or replace one that was made from other files.

        A case that was made from the same files stays: another process that trains another fold may be reading it.

        Args:
            case_id: Name of its folder.
            image: Slabs of the image as :meth:`CaseTransform.slabs` yields them.
            label: Class indices ``(slice, u, v)`` of the plan's ``stored_values``.
            transform: The transform of both to this grid.
            sources: Stamps of the case's files.
        """
        temporary = self.folder / f".{os.getpid()}-{case_id}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            stored = _empty(temporary / "image.b2nd", (len(transform.scalings), *transform.shape), np.float32)
            for channel, start, slab in image:
                stored[channel, start : start + len(slab)] = slab
            _empty(temporary / "label.b2nd", label.shape, label.dtype)[...] = label
            # Seeded by the name: a case's sample does not depend on the other cases.
            counts = count_classes(label, len(self.data.stored_values))
            seed = zlib.crc32(case_id.encode())
            locations = sample_locations(label, counts, seed=seed, not_annotated=self.data.not_annotated)
            if locations:
                np.save(temporary / "locations.npy", np.concatenate(list(locations.values())))
            record = CaseRecord(
                voxels=tuple(counts.sum(axis=0).tolist()),
                locations={str(key): len(voxels) for key, voxels in locations.items()},
                transform=transform,
                sources=tuple(sources),
            )
            record.save(temporary / CASE_FILE)
            folder = self.folder / case_id
            if folder.is_dir() and StoredCase(folder).sources == tuple(sources):
                return
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _empty(path: Path, shape: Sequence[int], dtype: DTypeLike) -> blosc2.NDArray:
    leading = len(shape) - 3
    return blosc2.empty(
        tuple(shape),
        dtype=np.dtype(dtype),
        chunks=_at_most(CHUNK, shape, leading),
        blocks=_at_most(BLOCK, shape, leading),
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "filters": [blosc2.Filter.BITSHUFFLE], "nthreads": 1},
        urlpath=str(path),
        mode="w",
    )


def _at_most(size: tuple[int, int, int], shape: Sequence[int], leading: int) -> tuple[int, ...]:
    return (1,) * leading + tuple(map(min, size, shape[leading:]))
