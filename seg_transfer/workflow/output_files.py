"""Checks of the files and folders that a command is told to write: nothing of another kind is replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from seg_transfer.errors import UserError
from seg_transfer.util.local_files import check_file, check_folder
from seg_transfer.util.special_files import is_special
from seg_transfer.workflow.work_folder import WorkFolder


class Kind(NamedTuple):
    """A kind of file that commands write.

    Attributes:
        noun: What messages call it.
        start: Pattern of the first bytes of such a file.
        ending: An ending that only such files have: whatever has it may be replaced, also a damaged one, and no other
            kind is written with it.
    """

    noun: str
    start: bytes
    ending: str | None = None


CSV = Kind("a table", rb"case,label,")
SCORES = Kind("scores as JSON", rb'\{\s*"version":.*"tolerance":')
VOLUMES = Kind("volumes as JSON", rb'\[\s*(\]|\{\s*"case":)')
PNG = Kind("a PNG file", rb"\x89PNG")
PAGE = Kind("an HTML page", rb"<!doctype html", ".html")
ONNX = Kind("an ONNX file", rb"\x08", ".onnx")
MODEL_FILE = Kind("a model file", rb'.{6}\0\0\{.*"segtl"', ".segtl")
"""Safetensors: the first 8 bytes are the length of the header."""
_OF_ENDING = {kind.ending: kind for kind in (PAGE, ONNX, MODEL_FILE)}
_READ = 4096
"""Bytes of a file that are looked at."""


def check_output(path: Path, kind: Kind) -> None:
    """Check before long work that a file can be written, and that nothing of another kind would be lost.

    Args:
        path: The file; it may be there already.
        kind: What will be written.

    Raises:
        UserError: If it cannot be written, has the ending of another kind, holds something else, or is one that a
            work folder keeps.
    """
    expected = _OF_ENDING.get(path.suffix.lower(), kind)
    if expected is not kind:
        what = f"{kind.noun} would be written under the name of {expected.noun}"
        raise UserError(what, where=path, hint="choose another ending, or the option that writes such a file")
    check_file(path)
    if is_special(path):
        return
    check_not_kept(path)
    if path.is_file() and path.suffix.lower() != kind.ending:
        with path.open("rb") as file:
            start = file.read(_READ)
        if start and not re.match(kind.start, start, re.DOTALL | re.IGNORECASE):
            what = f"{kind.noun} would replace this file, which holds something else"
            raise UserError(what, where=path, hint="name another file")


def check_output_folder(path: Path) -> None:
    """Check before long work that files can be written into a folder, and that no work folder keeps it.

    Raises:
        UserError: If they cannot, or it does.
    """
    check_folder(path)
    check_not_kept(path)


def check_not_kept(path: Path) -> None:
    """Check that an output is none of a work folder's own files and folders, and lies in none of them.

    Raises:
        UserError: If it is or does.
    """
    for folder in path.resolve().parents:
        work = WorkFolder(folder)
        if (work.plan.is_file() or work.fingerprint.is_file()) and work.keeps(path):
            what = f"files that segtl needs are kept here by the work folder {folder}"
            raise UserError(what, where=path, hint="name another output")
