"""Unpacks archives that nobody vouches for: bounded in size and number of files, and never outside of a folder."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from seg_transfer.errors import UserError, cause_of, printable
from seg_transfer.util.names import is_file_name
from seg_transfer.util.units import bytes_text

MOST_FILES = 20_000
"""Files of an archive; a series of ten thousand slices has ten thousand."""
LARGEST_LIST = 64 * 2**20
"""Bytes that the list of files at an archive's end may take; it is read into memory as a whole."""
NESTED = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ENCRYPTED = 1
_HINT = "name a folder of DICOM files, or a .zip of one without a password"
_ENDING = b"PK\x05\x06"


def unpack(path: Path, folder: Path, *, most: int) -> None:
    """Unpack a .zip into one folder, each file in a folder of its own: no path of the archive is used.

    Args:
        path: The archive.
        folder: An empty folder.
        most: Bytes that the content may have.

    Raises:
        UserError: If it is damaged, encrypted, too large or has too many files, or holds archives or links.
    """
    try:
        _check_list(path)
        with zipfile.ZipFile(path) as archive:
            entries = [each for each in archive.infolist() if not each.is_dir()]
            _check(path, entries, min(most, shutil.disk_usage(folder).free))
            for number, entry in enumerate(entries):
                name = PurePosixPath(entry.filename).name
                own = folder / f"{number:06d}" / (name if is_file_name(name) else "file")
                own.parent.mkdir()
                with archive.open(entry) as source, own.open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, ValueError) as error:
        if isinstance(error, UserError):
            raise
        cause = cause_of(error)
        raise UserError(f"cannot be unpacked: {cause}", where=path, hint=_HINT) from None


def _check_list(path: Path) -> None:
    """Refuse a list of files that would fill the memory, before it is read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 2**16 - 22))
        end = file.read()
    start = end.rfind(_ENDING)
    if start >= 0 and int.from_bytes(end[start + 12 : start + 16], "little") > LARGEST_LIST:
        raise UserError("its list of files is too large", where=path, hint="give one series")


def _check(path: Path, entries: list[zipfile.ZipInfo], most: int) -> None:
    if len(entries) > MOST_FILES:
        raise UserError(f"it holds {len(entries)} files, more than {MOST_FILES}", where=path, hint="give one series")
    size = sum(entry.file_size for entry in entries)
    if size > most:
        what = f"its content needs {bytes_text(size)}; {bytes_text(most)} are free or allowed"
        raise UserError(what, where=path, hint="unpack it elsewhere, and name the folder; or give one series")
    for entry in entries:
        name = printable(entry.filename)[:80]
        if entry.flag_bits & _ENCRYPTED:
            raise UserError("cannot be unpacked: it is encrypted", where=path, hint=_HINT)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"it holds a link: {name}", where=path, hint=_HINT)
        if entry.filename.lower().endswith(NESTED):
            raise UserError(f"it holds another archive: {name}", where=path, hint="unpack that one first")
