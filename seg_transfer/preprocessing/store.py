"""The preprocessed store: one folder per case, compressed so that a patch is read without the rest.

``<folder>/plan-data.json`` is the plan's data part that the store was made with; another data part is refused.
``<folder>/<case>/`` holds ``image.b2nd`` ``(channel, slice, u, v)`` float32, ``label.b2nd`` ``(slice, u, v)`` class
indices (the number of labels for voxels that are not annotated), ``locations.npy`` and ``case.json``, which has the
digests of the others. It is written atomically, slab by slab, beside a lock ``.<case>.lock``, so that several processes
may preprocess into one store. Reading a patch reads only its blocks and the sampled locations.

Codec, chunks and blocks are measured in ``bench/preprocessing.py``: from a 72x512x512 volume, LZ4 with bitshuffle in
these blocks reads a 2D, 2.5D or 3D patch in 0.4, 0.7 and 1.9 ms, zstd in twice that for a store a tenth smaller.
"""

from __future__ import annotations

import re
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from seg_transfer.errors import UserError
from seg_transfer.planning.data_plan import DataPlan
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.checked_array import Checked
from seg_transfer.preprocessing.extent import ExtentSums
from seg_transfer.preprocessing.locations import count_classes, sample_locations
from seg_transfer.preprocessing.store_record import STORE_FILE, StoreRecord, store_data
from seg_transfer.preprocessing.stored_case import (
    CASE_FILE,
    IMAGE_FILE,
    LABEL_FILE,
    LOCATIONS_FILE,
    CaseDigests,
    CaseRecord,
    StoredCase,
)
from seg_transfer.util.disk_space import room_for
from seg_transfer.util.local_files import sync
from seg_transfer.util.locks import locked
from seg_transfer.util.progress import track

__all__ = ["CHUNK", "Store", "StoredCase"]

CHUNK, BLOCK = (16, 128, 128), (4, 32, 32)
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}-(?P<case>.+)")
_LOCK = re.compile(r"\.(?P<case>.+)\.lock")


class Store:
    """All preprocessed cases of one plan's data part; made by :meth:`create`, read through :meth:`open`."""

    def __init__(self, folder: Path, data: DataPlan) -> None:
        self.folder, self.data = folder, data
        self._known: dict[str, dict[CaseDigests | None, Checked]] = {}

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
        return StoredCase(folder, self._known.setdefault(case_id, {}))

    def holds(self, case_id: str, sources: Sequence[str]) -> bool:
        """Whether a case made from these files is there, and all of it is whole."""
        try:
            case = self.case(case_id)
            if case.sources != tuple(sources):
                return False
            case.check()
        except UserError:
            return False
        return True

    def copied_into(self, folder: Path) -> Store:
        """A copy on another disk, such as one of this machine where the store is on a network's.

        Cases that are there already, from an earlier call or of another process, are not copied again.

        Args:
            folder: The copy is a folder in it, with this store's name.

        Raises:
            UserError: If the folder's disk is full, or it has a store of another data part.
        """
        copy, cases = Store.create(folder / self.folder.name, self.data), self.cases()
        for case_id in track(cases, total=len(cases), title="copying"):
            source = self.case(case_id)
            with copy.making(case_id):
                if not copy.holds(case_id, source.sources):
                    copy._take(source)
        return copy

    def _take(self, case: StoredCase) -> None:
        """Copy a case of another store."""
        temporary = self._temporary(case.id)
        try:
            needed = sum(file.stat().st_size for file in case.folder.iterdir())
            with room_for(self.folder / case.id, temporary, needed=needed):
                shutil.copytree(case.folder, temporary)
            self._put(temporary, case.id)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _temporary(self, case_id: str) -> Path:
        """A folder beside a case's place, for what is written and for what was there."""
        return self.folder / f".{secrets.token_hex(4)}-{case_id}"

    def _put(self, temporary: Path, case_id: str) -> None:
        """Put what is written in a case's place, and remove what was there."""
        former = self._temporary(case_id)
        try:
            with suppress(FileNotFoundError):
                (self.folder / case_id).rename(former)
            temporary.rename(self.folder / case_id)
            sync(self.folder)
        finally:
            shutil.rmtree(former, ignore_errors=True)

    @contextmanager
    def making(self, case_id: str) -> Iterator[None]:
        """Hold a case's lock, after waiting for another process that makes the case."""
        with locked(self.folder / f".{case_id}.lock", f"case {case_id} is being preprocessed", wait=True):
            self._remove_temporaries(case_id)
            yield

    def remove_leftovers(self) -> None:
        """Remove locks and temporary folders of processes that died; those of others stay."""
        names = [path.name for path in self.folder.iterdir() if path.name.startswith(".")]
        for case in sorted({found["case"] for name in names for found in [_case_of(name)] if found}):
            with suppress(UserError), locked(self.folder / f".{case}.lock", f"case {case} is being preprocessed"):
                self._remove_temporaries(case)

    def _remove_temporaries(self, case_id: str) -> None:
        for path in self.folder.iterdir():
            if (found := _TEMPORARY.fullmatch(path.name)) and found["case"] == case_id:
                shutil.rmtree(path, ignore_errors=True)

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
        temporary = self._temporary(case_id)
        try:
            with room_for(self.folder / case_id, temporary, needed=_bytes(label, transform)):
                temporary.mkdir()
                stored = _empty(temporary / IMAGE_FILE, (len(transform.scalings), *transform.shape), np.float32)
                sums = ExtentSums(len(transform.scalings), transform.shape)
                for channel, start, slab in image:
                    stored[channel, start : start + len(slab)] = slab
                    sums.add(channel, start, slab)
                _empty(temporary / LABEL_FILE, label.shape, label.dtype)[...] = label
                # Seeded by the name: a case's sample does not depend on the other cases.
                counts = count_classes(label, len(self.data.stored_values))
                seed = zlib.crc32(case_id.encode())
                locations = sample_locations(label, counts, seed=seed, not_annotated=self.data.not_annotated)
                if locations:
                    np.save(temporary / LOCATIONS_FILE, np.concatenate(list(locations.values())))
                record = CaseRecord(
                    voxels=tuple(counts.sum(axis=0).tolist()),
                    locations={str(key): len(voxels) for key, voxels in locations.items()},
                    transform=transform,
                    sources=tuple(sources),
                    extent=sums.extent(),
                    digests=CaseDigests.of(temporary),
                )
                record.save(temporary / CASE_FILE)
            if self.holds(case_id, sources):
                return
            self._put(temporary, case_id)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _case_of(name: str) -> re.Match[str] | None:
    """The case that a hidden file or folder of a store belongs to."""
    return _TEMPORARY.fullmatch(name) or _LOCK.fullmatch(name)


def _bytes(label: NDArray, transform: CaseTransform) -> int:
    """Bytes of a case in the store, if nothing of it were compressible."""
    return 4 * len(transform.scalings) * label.size + label.nbytes


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
