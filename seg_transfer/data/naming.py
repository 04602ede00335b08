"""Which files of a folder belong to which case, told from their names.

nnU-Net's convention: channel ``c`` of case ``id`` is ``<id>_<c, four digits><ending>``, its label ``<id><ending>``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seg_transfer.data.formats import ending, is_supported, stem

_CHANNEL_SUFFIX = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class Case:
    """One case's files.

    Attributes:
        id: The case's name.
        images: Files in the order of the channels; a file may hold several. Those that should be there and are not
            are named all the same, so that checking can say so.
        label: The label file; None for a case to predict.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None


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
        folder: Where they lie.
    """

    cases: dict[str, dict[int, Path]]
    folder: Path

    @property
    def first(self) -> Path:
        """One of the files; the first by name."""
        return min(file for files in self.cases.values() for file in files.values())

    @property
    def several(self) -> bool:
        """Whether channels lie in files of their own."""
        return any(number > 0 for files in self.cases.values() for number in files)

    def of(self, case: str, channels: int) -> tuple[Path, ...]:
        """The files of a case, with those of ``channels`` that are missing named as they should be."""
        found = self.cases[case]
        suffix = ending(self.first)
        numbers = sorted({*range(channels), *found})
        return tuple(found.get(number, self.folder / f"{case}_{number:04d}{suffix}") for number in numbers)


def data_files(folder: Path) -> list[Path]:
    """Files with a supported ending by name; hidden ones are left out, broken links are not."""
    return sorted(
        path for path in folder.iterdir() if is_supported(path) and not path.name.startswith(".") and not path.is_dir()
    )


def split_channel(name: str) -> tuple[str, int] | None:
    """Case and channel number from a file's stem such as ``liver_01_0000``; None if it has no such suffix."""
    match = _CHANNEL_SUFFIX.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def by_channel(folder: Path, files: Iterable[Path]) -> tuple[ChannelFiles, list[Unused]]:
    """Group image files named with a channel suffix; those without one, or doubly there, are unused."""
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
        folder: Where the labels lie.
        files: Label files.

    Returns:
        Case -> label file, named as it should be if it is missing; and the files that no case claims.
    """
    found: dict[str, Path] = {}
    unused = []
    wanted = set(cases)
    suffix = ".nii.gz"
    for file in files:
        suffix = ending(file)
        if stem(file) not in wanted:
            unused.append(Unused(file, "no image belongs to this label"))
        elif stem(file) in found:
            unused.append(Unused(file, f"{found[stem(file)].name} is a label of the same case"))
        else:
            found[stem(file)] = file
    return {case: found.get(case, folder / f"{case}{suffix}") for case in sorted(wanted)}, unused
