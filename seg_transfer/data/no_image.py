"""Says why a path holds no image: nothing is there, other files are, DICOM, or folders of images."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

from seg_transfer.data.formats import ENDINGS
from seg_transfer.data.naming import data_files, folders_in
from seg_transfer.errors import UserError

DICOM_HINT = "`segtl convert DICOM -o IMAGES` makes a NIfTI file of each series: give the folder of these"
_READ = 200
"""Files and folders that are looked into."""


def no_image(path: Path, noun: str = "image") -> UserError:
    """The error for a path where an image, or a folder of images, was expected.

    Args:
        path: A path without any file of a supported format.
        noun: What was expected, in messages: image or label map.
    """
    formats = f"give one {noun}, or a folder of them: {', '.join(ENDINGS)}"
    if not path.exists():
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        missing = "" if nearest == path.absolute().parent else f"; {nearest} is as far as it exists"
        return UserError(f"there is no such file or folder{missing}", where=path, hint="check the path")
    if path.is_file():
        if is_dicom(path):
            return UserError("this is a DICOM file, which has to be converted", where=path, hint=DICOM_HINT)
        return UserError("not a supported file format", where=path, hint=formats)
    if holds_dicom(path):
        return UserError(f"there is no {noun}, but DICOM, which has to be converted", where=path, hint=DICOM_HINT)
    if filled := [each for each in folders_in(path) if data_files(each)]:
        names = ", ".join(f"{each.name}/" for each in filled[:5])
        return UserError(f"there is no {noun}, but there are files in {names}", where=path, hint=f"give {filled[0]}")
    if data_files(path):
        hint = "give the images that were segmented"
        return UserError(f"there is no {noun}, but segmentations of 3D Slicer", where=path, hint=hint)
    files = [each for each in path.iterdir() if each.is_file() and not each.name.startswith(".")]
    if files:
        endings = Counter(each.suffix.lower() or "no ending" for each in files)
        others = ", ".join(f"{count} with {ending}" for ending, count in endings.most_common(3))
        return UserError(f"there is no {noun} among {len(files)} file(s): {others}", where=path, hint=formats)
    return UserError(f"there is no {noun}: the folder is empty", where=path, hint=formats)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def holds_dicom(folder: Path) -> bool:
    """Whether one of the first files in a folder, at any depth, is DICOM."""
    return any(path.is_file() and is_dicom(path) for path in islice(folder.rglob("*"), _READ))
