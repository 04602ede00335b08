"""Measurements of very many cases in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, overload

from pydantic import ConfigDict, PlainValidator, TypeAdapter

from seg_transfer.planning.case_fingerprint import CaseFingerprint


class CaseRecords(Sequence[CaseFingerprint]):
    """Measurements of cases, each compressed to about 0.3 kB; a :class:`CaseFingerprint` takes 10 kB.

    One is decoded whenever it is asked for: whoever needs them several times decodes them once.
    """

    def __init__(self, cases: Iterable[CaseFingerprint] = ()) -> None:
        self._packed: list[bytes] = []
        self._first = b""
        for case in cases:
            self.append(case)

    def append(self, case: CaseFingerprint) -> None:
        """Add a case."""
        text = case.model_dump_json().encode()
        self._first = self._first or text  # what all have in common with it, such as names of fields, takes no room
        packer = zlib.compressobj(zdict=self._first)
        self._packed.append(packer.compress(text) + packer.flush())

    def texts(self) -> Iterator[bytes]:
        """The JSON of each case."""
        return map(self._text, range(len(self)))

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> CaseFingerprint: ...
    @overload
    def __getitem__(self, index: slice) -> CaseRecords: ...
    def __getitem__(self, index: int | slice) -> CaseFingerprint | CaseRecords:
        if isinstance(index, slice):
            return CaseRecords(self[each] for each in range(len(self))[index])
        return CaseFingerprint.model_validate_json(self._text(index))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CaseRecords):
            return NotImplemented
        return len(self) == len(other) and all(map(bytes.__eq__, self.texts(), other.texts()))

    def _text(self, index: int) -> bytes:
        return zlib.decompressobj(zdict=self._first).decompress(self._packed[index])


_ONE_BY_ONE = TypeAdapter(Iterable[CaseFingerprint], config=ConfigDict(defer_build=True))


def _packed(cases: object) -> CaseRecords:
    return cases if isinstance(cases, CaseRecords) else CaseRecords(_ONE_BY_ONE.validate_python(cases))


PackedCases = Annotated[CaseRecords, PlainValidator(_packed)]
"""A field that takes any cases and packs them."""
