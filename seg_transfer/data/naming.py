"""Assigns the files of a folder to cases by their names.

nnU-Net's convention: channel ``c`` of case ``id`` is ``<id>_<c, four digits><ending>``, its label ``<id><ending>``.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from seg_transfer.data.formats import ending, is_segmentation, is_supported, is_zarr, stem, stored_in
from seg_transfer.errors import UserError
from seg_transfer.util.names import FileName

logger = logging.getLogger(__name__)

_CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")
MOST_CHANNELS = 100
"""Four digits from here on, such as a year, are no channel."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case's files.

    Attributes:
        id: Identifier of the case.
        images: Files in the order of the channels; a file may hold several. Missing files are included, so that the
            checks report them.
        label: The label file; None for a case to predict.
    """

    id: FileName
    images: tuple[Path, ...]
    label: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The images, then the label if the case has one."""
        return (*self.images, self.label) if self.label is not None else self.images

    @property
    def stored(self) -> tuple[Path, ...]:
        """The files on disk: those with the voxels of an ``.mhd`` and the masks of a folder too."""
        return tuple(part for path in self.files for part in stored_in(path))


@dataclass(frozen=True)
class Unused:
    """A file among the images or labels that belongs to no case.

    Attributes:
        file: Its path.
        what: Why it belongs to none.
    """

    file: Path
    what: str


@dataclass(frozen=True)
class ChannelFiles:
    """Image files by case and channel.

    Attributes:
        cases: Case -> channel number -> file.
        folder: Folder of the files.
    """

    cases: dict[str, dict[int, Path]]
    folder: Path

    @cached_property
    def first(self) -> Path:
        """The first file by name."""
        return min(file for files in self.cases.values() for file in files.values())

    @property
    def several(self) -> bool:
        """Whether a case has several files."""
        return any(number > 0 for files in self.cases.values() for number in files)

    def of(self, case: str, channels: int) -> tuple[Path, ...]:
        """The files of a case; a missing file of the ``channels`` has its expected name."""
        files = self.cases[case]
        suffix = ending(self.first)
        numbers = sorted({*range(channels), *files})
        return tuple(files.get(number, self.folder / f"{case}_{number:04d}{suffix}") for number in numbers)


def case_name(text: str) -> str:
    """A case's name as its files give it: an accent and its letter are one character (NFC), not two as on a Mac."""
    return unicodedata.normalize("NFC", text)


def data_files(folder: Path) -> list[Path]:
    """Files with a supported ending, sorted by name; without hidden files, but with broken links.

    Raises:
        UserError: If a name is not UTF-8: no result could be named after it.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if is_supported(path) and not path.name.startswith(".") and path.is_dir() == is_zarr(path)
    )
    for path in files:
        if not os.fsencode(path.name).decode("utf-8", "ignore") == path.name:
            raise UserError(f"the name {path.name!a} is not UTF-8", where=folder, hint="rename this file")
    return files


def folders_in(folder: Path) -> list[Path]:
    """Folders in a folder, sorted by name; without hidden ones, and those that are images."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not (path.name.startswith(".") or is_zarr(path))
    )


def images_in(folder: Path) -> list[Path]:
    """As :func:`data_files`, without the segmentations that 3D Slicer saves beside their images."""
    return [path for path in data_files(folder) if not is_segmentation(path)]


def split_channel(name: str) -> tuple[str, int] | None:
    """Case and channel number from a file's stem such as ``liver_01_0000``; None if it has no such suffix."""
    match = _CHANNEL_SUFFIX.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def extra_channels(files: Iterable[Path], channels: int) -> list[Path]:
    """Files in a folder of images to predict that are channels which the model does not have.

    ``p1_0001`` may be a channel, or the name of a case. It is a channel if names in the folder show that they number
    channels: a file ends in a channel of the model, such as ``_0000``, or several cases end in the same digits only.
    Otherwise it is a name, with a warning.

    Args:
        files: Image files of one folder.
        channels: Number of the model's channels.
    """
    split = [(file, parts) for file in files if (parts := split_channel(stem(file)))]
    beyond = [(file, case, number) for file, (case, number) in split if channels <= number < MOST_CHANNELS]
    names_channels = any(number < channels for _, (_, number) in split)
    same_digits = len(beyond) > 1 and len({number for _, _, number in beyond}) == 1
    if names_channels or same_digits:
        return [file for file, _, _ in beyond]
    if beyond:
        examples = ", ".join(stem(file) for file, _, _ in beyond[:3])
        logger.warning(
            f"{beyond[0][0].parent}: names such as {examples} are taken for those of cases; the model has {channels} "
            "channel(s), and no file ends in _0000"
        )
    return []


def by_channel(folder: Path, files: Iterable[Path]) -> tuple[ChannelFiles, list[Unused]]:
    """Group image files by case and channel suffix; files without one, and second ones of a channel, are unused."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    unused = []
    for file in files:
        parts = split_channel(stem(file))
        if parts is None:
            unused.append(Unused(file, "its name does not end with _ and the four digits of a channel, such as _0000"))
        elif parts[1] in cases[parts[0]]:
            unused.append(Unused(file, f"{cases[parts[0]][parts[1]].name} is the same channel of the same case"))
        else:
            cases[parts[0]][parts[1]] = file
    return ChannelFiles(dict(cases), folder), unused


def match_labels(cases: Iterable[str], folder: Path, files: Iterable[Path]) -> tuple[dict[str, Path], list[Unused]]:
    """Find each case's label by its name.

    Args:
        cases: Case identifiers.
        folder: Folder of the labels.
        files: Label files.

    Returns:
        Case -> label file, with its expected name if it is missing; and the files that belong to no case.
    """
    labels: dict[str, Path] = {}
    unused = []
    ids = set(cases)
    suffix = ".nii.gz"
    for file in files:
        suffix = ending(file)
        if stem(file) not in ids:
            unused.append(Unused(file, "no image belongs to this label"))
        elif stem(file) in labels:
            unused.append(Unused(file, f"{labels[stem(file)].name} is a label of the same case"))
        else:
            labels[stem(file)] = file
    return {case: labels.get(case, folder / f"{case}{suffix}") for case in sorted(ids)}, unused
