"""Fixes what surrounds the voxels of a NIfTI file: its unit of length, and compression that its name does not show."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
from nibabel.openers import ImageOpener

from seg_transfer.data.formats.header import Header
from seg_transfer.data.formats.nifti import content, parse_head
from seg_transfer.data.nifti_geometry import MM, MM_CODE, NiftiGeometry
from seg_transfer.util.local_files import GZIP_MAGIC

_NAMES = {1: "metre", 3: "micrometre"}


def faults(path: Path, header: Header) -> list[str]:
    """What :func:`fix` would fix; the file can be read as it is, but other programs may fail or misread it."""
    found = []
    with path.open("rb") as file:
        is_compressed = file.read(2) == GZIP_MAGIC
    if is_compressed != path.name.lower().endswith(".gz"):
        found.append(f"it is {'' if is_compressed else 'not '}compressed, which its name does not show")
    assert header.grid.nifti is not None
    unit = header.grid.nifti.units & 7
    if MM[unit] != 1:
        found.append(f"its unit of length is the {_NAMES[unit]}")
    return found


def fix(path: Path, target: Path) -> None:
    """Copy a file: the unit of length becomes mm, and compression follows the name; the voxels' bytes stay.

    Args:
        path: A file that can be read.
        target: The copy; its name says whether it is compressed.
    """
    with content(path) as (stream, _):
        first = stream.read(nib.Nifti2Header.sizeof_hdr)
        head = parse_head(first, path)
        geometry = NiftiGeometry.of(head, 1 if head.sizeof_hdr == nib.Nifti1Header.sizeof_hdr else 2)
        if MM[geometry.units & 7] != MM[MM_CODE]:
            geometry.in_mm().write_to(head)
        with ImageOpener(str(target), "wb") as out:
            out.write(head.binaryblock + first[head.sizeof_hdr :])
            shutil.copyfileobj(stream, out.fobj)
