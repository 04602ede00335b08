"""A store of Zarr that notices chunks which were cut: Blosc's decoder reads on behind their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from seg_transfer.util.addresses import address_of

_HEADER = 16
"""Bytes of the header of a buffer of Blosc; the last four are its length."""
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


class CheckedStore(WrapperStore[Store]):
    """A store whose values are as long as they have to be.

    Attributes:
        blosc: Whether chunks are buffers of Blosc.
    """

    blosc = False

    @classmethod
    def of(cls, path: Path) -> CheckedStore:
        """The store of a folder or of the objects that it stands for, which is only read."""
        address = address_of(path)
        return cls(
            LocalStore(path, read_only=True) if address is None else FsspecStore.from_url(address, read_only=True)
        )

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The value of a key.

        Raises:
            ValueError: If it is shorter or longer than it has to be.
        """
        found: Any = await super().get(key, prototype, byte_range)
        if found is None or key.rsplit("/", 1)[-1] in _METADATA:
            return found
        size = len(found)
        if isinstance(byte_range, RangeByteRequest):
            wanted = byte_range.end - byte_range.start
        elif byte_range is None and self.blosc:
            wanted = int.from_bytes(bytes(found.as_numpy_array()[_HEADER - 4 : _HEADER]), "little")
        else:
            return found
        if size != wanted:
            raise ValueError(f"the chunk {key} has {size} bytes, not {wanted}")
        return found
