"""One case of the preprocessed store, read patch by patch and checked against its digests."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seg_transfer.errors import UserError
from seg_transfer.preprocessing.case_transform import CaseTransform
from seg_transfer.preprocessing.checked_array import DAMAGED_HINT, ArrayDigests, Checked, CheckedArray, damaged
from seg_transfer.preprocessing.extent import Extent
from seg_transfer.preprocessing.locations import LocationKey
from seg_transfer.util.local_files import sync
from seg_transfer.util.records import JsonRecord, Record

CASE_FILE, IMAGE_FILE, LABEL_FILE, LOCATIONS_FILE = "case.json", "image.b2nd", "label.b2nd", "locations.npy"


class CaseDigests(Record):
    """Digests of a case's files."""

    image: ArrayDigests
    label: ArrayDigests
    locations: int | None = Field(description="CRC-32 of locations.npy, if there is one")

    @classmethod
    def of(cls, folder: Path) -> CaseDigests:
        """Read a case's files, and bring them to disk."""
        locations = folder / LOCATIONS_FILE
        for file in (folder / IMAGE_FILE, folder / LABEL_FILE, locations):
            sync(file)
        return cls(
            image=ArrayDigests.of(folder / IMAGE_FILE),
            label=ArrayDigests.of(folder / LABEL_FILE),
            locations=zlib.crc32(locations.read_bytes()) if locations.is_file() else None,
        )


class CaseRecord(JsonRecord):
    """``case.json`` of a preprocessed case; version 1 had no digests, version 2 no extent."""

    noun: ClassVar[str] = "preprocessed case"
    if_missing: ClassVar[str] = DAMAGED_HINT
    if_wrong: ClassVar[str] = DAMAGED_HINT

    version: Literal[3] = 3
    voxels: tuple[int, ...] = Field(description="number per class, voxels that are not annotated last")
    locations: dict[str, int] = Field(description="class index or annotated -> number of its locations")
    transform: CaseTransform
    sources: tuple[str, ...] = Field(default=(), description="stamps of the case's files")
    extent: Extent | None = Field(default=None, description="where the content lies")
    digests: CaseDigests | None = None

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any] | None:
        """Version 1 is read without being checked; extents are measured when they are needed."""
        return content


class StoredCase:
    """One preprocessed case; files are read on first use.

    Every file is checked against its digest, the arrays chunk by chunk, before a process uses it for the first time.

    Args:
        folder: The case's folder.
        known: What this process has checked of the case, by its digests; give it again when the case is opened again.

    Raises:
        UserError: When something is read that is missing or damaged.
    """

    def __init__(self, folder: Path, known: dict[CaseDigests | None, Checked] | None = None) -> None:
        self.id, self.folder = folder.name, folder
        self._known = {} if known is None else known

    @cached_property
    def image(self) -> CheckedArray:
        """Normalized image ``(channel, slice, u, v)`` float32; slicing reads only the blocks needed."""
        return self._array(IMAGE_FILE, None if self._digests is None else self._digests.image)

    @cached_property
    def label(self) -> CheckedArray:
        """Class indices ``(slice, u, v)``, uint8 (uint16 beyond 256 classes)."""
        return self._array(LABEL_FILE, None if self._digests is None else self._digests.label)

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

    @cached_property
    def extent(self) -> Extent:
        """Where the content lies; stores of earlier releases are read for it."""
        return self._record.extent or Extent.of(self.image[:])

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
        counts, file = self._record.locations, self.folder / LOCATIONS_FILE
        with self._naming(file):
            if not counts:
                return {}
            if self._digests is not None and not self._checked.get(LOCATIONS_FILE):
                if zlib.crc32(file.read_bytes()) != self._digests.locations:
                    raise damaged(file)
                self._checked[LOCATIONS_FILE] = {0}
            voxels = np.load(file, mmap_mode="r")
            ends = np.cumsum(list(counts.values()), dtype=np.int64)
            keys: list[LocationKey] = ["annotated" if key == "annotated" else int(key) for key in counts]
            return dict(zip(keys, np.split(voxels, ends[:-1]), strict=True))

    def check(self) -> None:
        """Read every file and check it.

        Raises:
            UserError: If one is missing or damaged.
        """
        self.image.check()
        self.label.check()
        _ = self.locations

    @cached_property
    def _record(self) -> CaseRecord:
        return CaseRecord.load(self.folder / CASE_FILE)

    @property
    def _digests(self) -> CaseDigests | None:
        return self._record.digests

    @property
    def _checked(self) -> Checked:
        return self._known.setdefault(self._digests, {})

    def _array(self, name: str, digests: ArrayDigests | None) -> CheckedArray:
        file = self.folder / name
        with self._naming(file):
            return CheckedArray(file, digests, self._checked.setdefault(name, set()))

    @contextmanager
    def _naming(self, file: Path) -> Iterator[None]:
        """Name the file in errors about damaged or deleted files."""
        try:
            yield
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise damaged(file, cause) from error
