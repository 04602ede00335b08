"""What SimpleITK leaves out of a MetaImage or NRRD file: its unit of length, and whether its voxels are whole.

Raw voxels must end where the file ends. Compressed ones are decompressed once, a block at a time, and their checksum is
compared. The voxels of ``.mhd`` may be in a file beside it.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO, cast

from isal import igzip

from seg_transfer.data.formats.stream import GZIP_RATIO, check_end, fill
from seg_transfer.errors import UserError

_LONGEST_HEADER = 2**22  # bytes; the limits keep a file that is no header from being read whole
_LONGEST_FIELD = 512
"""Bytes of a field of NRRD: of more than 1,000, one that is wrong ends the process in NRRD's own error message."""
_BLOCK = 2**20
_MM = ("", "?", "???", "mm", "millimeter", "millimetre", "millimeters", "millimetres")
_DATA_FILE = "elementdatafile"
_META = (".mha", ".mhd")
_LONGEST_NUMBER = 8
"""Bytes of a voxel at most; as text it takes at least one."""


def check_unit(path: Path) -> None:
    """Check that a MetaImage or NRRD file is in mm, as SimpleITK takes it to be.

    Raises:
        UserError: If its header names another unit of length.
        ValueError: If the header has no end.
    """
    with path.open("rb") as file:
        if path.suffix.lower() in _META:
            units = [_fields(file, b"=", last=_DATA_FILE).get("distanceunits", "")]
        else:
            units = re.findall(r'"([^"]*)"', _fields(file, b":", last="").get("space units", ""))
    other = sorted({unit for unit in units if unit.lower() not in _MM})
    if other:
        hint = "convert spacing and origin to mm, and say so in the header"
        raise UserError(f"its unit of length is {', '.join(map(repr, other))}, not mm", where=path, hint=hint)


def check_meta_body(path: Path, claimed: int) -> None:
    """Check the voxels of a MetaImage file.

    Args:
        path: The file.
        claimed: Bytes of the voxels, by the header.

    Raises:
        UserError: If the voxels are in another file.
        ValueError: If there are more or fewer voxels, or the checksum differs.
    """
    with path.open("rb") as header:
        fields = _fields(header, b"=", last=_DATA_FILE)
        start = header.tell()
    detached = _data_file(path, fields[_DATA_FILE])
    with (detached or path).open("rb") as file:
        file.seek(0 if detached else start)
        held = _left(file)
        if not _is_true(fields.get("binarydata", "true")):
            _check_most(claimed, held * _LONGEST_NUMBER)
        elif _is_true(fields.get("compresseddata", "false")):
            _check_most(claimed, held * GZIP_RATIO)
            _check_zlib(file, claimed)
        else:
            _check_exact(claimed, held)


def data_file(path: Path) -> Path | None:
    """The file beside a MetaImage header that has its voxels; None if they follow the header.

    Raises:
        UserError: If the name is none of a file in the header's folder, there is no such file, or the header ends with
            ``.mha``, which holds its voxels itself.
        ValueError: If the header has no end.
    """
    with path.open("rb") as file:
        return _data_file(path, _fields(file, b"=", last=_DATA_FILE)[_DATA_FILE])


def _data_file(path: Path, name: str) -> Path | None:
    if name.upper() == "LOCAL":
        return None
    if path.suffix.lower() != ".mhd":
        _refuse_detached(path, name)
    if name.upper().startswith("LIST") or "%" in name:
        hint = "store header and voxels as one file, such as .mha"
        raise UserError(f"its voxels are in several files, {name!r}", where=path, hint=hint)
    name = name.encode("latin-1").decode("utf-8", "surrogateescape")
    if name in ("", ".", "..") or set(name) & set("/\\:\0"):
        hint = "put header and voxels into one folder, and write the file's name alone into ElementDataFile"
        raise UserError(f"its voxels are in {name!r}, which is no name of a file beside it", where=path, hint=hint)
    if not (found := path.with_name(name)).is_file():
        raise UserError(f"the file {name!r} with its voxels is missing", where=path, hint="put it beside the header")
    return found


def check_nrrd_body(path: Path, claimed: int) -> None:
    """Check the voxels of an NRRD file; as :func:`check_meta_body`."""
    with path.open("rb") as file:
        fields = _fields(file, b":", last="")
        for name in ("data file", "datafile"):
            if name in fields:
                _refuse_detached(path, fields[name])
        held, encoding = _left(file), fields.get("encoding", "").lower()
        if encoding in ("gzip", "gz"):
            _check_most(claimed, held * GZIP_RATIO)
            with igzip.IGzipFile(fileobj=file) as stream:
                buffer = memoryview(bytearray(min(_BLOCK, claimed)))
                for start in range(0, claimed, _BLOCK):
                    fill(cast(BinaryIO, stream), buffer[: claimed - start])
                check_end(cast(BinaryIO, stream), claimed)
        elif encoding == "raw":
            _check_exact(claimed, held)
        elif encoding in ("txt", "text", "ascii", "hex"):
            _check_most(claimed, held * _LONGEST_NUMBER)
        else:
            raise UserError(f"the encoding {encoding!r} is not supported", where=path, hint="store it with gzip")


def _fields(file: BinaryIO, separator: bytes, *, last: str) -> dict[str, str]:
    """The fields of the header by name, in lower case; the file stands at the first byte after it."""
    fields: dict[str, str] = {}
    while file.tell() < _LONGEST_HEADER:
        line = file.readline(_LONGEST_HEADER)
        if not line:
            break
        if len(line) > _LONGEST_FIELD and separator == b":" and not _is_free_text(line):
            raise ValueError(f"its header has a line of {len(line)} bytes")
        name, _, value = line.strip().partition(separator)
        key = name.decode("latin-1").strip().lower()
        if last == _DATA_FILE != key and _DATA_FILE in key.replace(" ", ""):  # MetaIO may take it for the real one
            raise ValueError(f"its header has the line {line[:80]!r}")
        fields.setdefault(key, value.decode("latin-1").strip())
        if key == last:
            return fields
    raise ValueError("it is cut off within its header")


def _is_free_text(line: bytes) -> bool:
    """Whether a line of NRRD is a comment or a key of its writer's own, ``key:=value``; a field is ``name: value``."""
    name, sign, _ = line.partition(b":=")
    return line.startswith(b"#") or (bool(sign) and b": " not in name)


def _refuse_detached(path: Path, name: str) -> None:
    raise UserError(f"its voxels are in another file, {name!r}", where=path, hint="store header and voxels as one file")


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")


def _left(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def _check_exact(claimed: int, held: int) -> None:
    if claimed != held:
        raise ValueError(f"its header claims {claimed} bytes of voxels, but the file holds {held}")


def _check_most(claimed: int, most: int) -> None:
    if claimed > most:
        raise ValueError(f"its header claims {claimed} bytes of voxels, but the file holds at most {most}")


def _check_zlib(file: BinaryIO, claimed: int) -> None:
    """Decompress; zlib compares the checksum at the end of its stream."""
    stream = zlib.decompressobj(wbits=47)  # zlib or gzip
    count, waiting = 0, b""
    while not stream.eof:
        waiting = waiting or file.read(_BLOCK)
        if not waiting:
            raise EOFError("it is cut off")
        count += len(stream.decompress(waiting, _BLOCK))
        waiting = stream.unconsumed_tail
        if count > claimed:
            raise ValueError(f"its header claims {claimed} bytes of voxels, but the file holds more")
    if stream.unused_data or file.read(1):
        raise ValueError("bytes follow its voxels")
    if count != claimed:
        raise ValueError(f"its header claims {claimed} bytes of voxels, but the file holds {count}")
