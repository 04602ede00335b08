"""What the reader of a layout finds, and the layout of images beside label maps, in two folders or in one."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg_transfer.data.case_folders import FileNames, is_label
from seg_transfer.data.description import Region
from seg_transfer.data.formats import ENDINGS, ending, is_raster, is_segmentation, is_there, read_header, stem
from seg_transfer.data.label_values import infer_labels
from seg_transfer.data.name_pairs import pair_names
from seg_transfer.data.naming import (
    Case,
    ChannelFiles,
    Unused,
    by_channel,
    data_files,
    folders_in,
    images_in,
    match_labels,
    split_channel,
)
from seg_transfer.data.no_image import holds_dicom, no_image
from seg_transfer.errors import UserError

logger = logging.getLogger(__name__)

Layout = Literal["nnunet", "msd", "folders", "list", "patients", "bids"]
_TRAINING = re.compile(r"tr(ain(ing)?)?$", re.IGNORECASE)
LAYOUTS = (
    "a data set is a folder in nnU-Net or MSD layout (dataset.json), of images/ and labels/, of patient folders, or in "
    "BIDS; or a list of cases (.csv or .json)"
)


@dataclass(frozen=True)
class DatasetContents:
    """What a layout's reader found; the fields are those of :class:`~seg_transfer.data.dataset.Dataset`."""

    layout: Layout
    name: str
    channel_names: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    cases: tuple[Case, ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    unused: tuple[Unused, ...] = ()
    groups: dict[str, str] | None = None


def read_folders(root: Path, names: FileNames, *, workers: int | None) -> DatasetContents:
    """Read images beside label maps; see :func:`seg_transfer.data.dataset.find_dataset`.

    Args:
        root: The data set's folder.
        names: Names of the folder of images and of that of label maps, if the user gives them.
        workers: Processes that look for label values.
    """
    found = _one_folder(root) or _two_folders(root, names)
    images, label_of, unused = _by_name(found) or _by_likeness(found, root)
    files = 1 + max(number for numbers in images.cases.values() for number in numbers)
    cases = tuple(Case(case, images.of(case, files), label) for case, label in label_of.items())
    return DatasetContents(
        layout="folders",
        name=root.resolve().name,
        channel_names=inferred_channels(images.first, files),
        **vars(infer_labels(list(filter(is_there, label_of.values())), found.label_folder, workers=workers)),
        cases=cases,
        unused=unused,
    )


@dataclass(frozen=True)
class _Files:
    """Image files and label files, each with their folder."""

    image_folder: Path
    images: list[Path]
    label_folder: Path
    labels: list[Path]


_Matched = tuple[ChannelFiles, dict[str, Path], tuple[Unused, ...]]
"""Images and label file of each case, and the files that belong to none."""


def _by_name(found: _Files) -> _Matched | None:
    """Label maps have the names of their images, with or without a channel suffix; None if none of them has."""
    label_names = {stem(file) for file in found.labels}
    unused: list[Unused] = []
    if any(stem(file) in label_names for file in found.images):
        images, unused = _one_file_each(found)
    elif any(parts[0] in label_names for file in found.images if (parts := split_channel(stem(file)))):
        images, unused = by_channel(found.image_folder, found.images)
    else:
        return None
    label_of, labels_unused = match_labels(images.cases, found.label_folder, found.labels)
    return images, label_of, (*unused, *labels_unused)


def _by_likeness(found: _Files, root: Path) -> _Matched:
    """As :func:`_by_rest`, with a word on how label maps and images were paired.

    Raises:
        UserError: If they cannot be.
    """
    matched = _by_rest(found)
    if matched is None:
        raise UserError(
            f"no label has the name of an image: images have names such as {found.images[0].name}, "
            f"labels such as {found.labels[0].name}",
            where=root,
            hint="give each label the name of its image, without a channel suffix such as _0000",
        )
    images, label_of, _ = matched
    case = next(case for case, label in label_of.items() if label == found.labels[0])
    example = f"{label_of[case].name} to {images.cases[case][0].name}"
    logger.info(f"{root}: label maps belong to images by what their names share, such as {example}")
    return matched


def _by_rest(found: _Files) -> _Matched | None:
    """What is left of the names without what all of a kind begin or end with is the same.

    None if a label map then has no image of its own.
    """
    labels = {stem(file): file for file in found.labels}
    if len(labels) < len(found.labels):
        return None
    for images, unused in (by_channel(found.image_folder, found.images), _one_file_each(found)):
        if pairs := pair_names(labels, images.cases):
            suffix = ending(found.labels[0])
            expected = {case: found.label_folder / f"{case}{suffix}" for case in sorted(images.cases)}
            return images, expected | {case: labels[label] for label, case in pairs.items()}, tuple(unused)
    return None


def _one_file_each(found: _Files) -> tuple[ChannelFiles, list[Unused]]:
    """Each image file is a case of its own."""
    images, unused = ChannelFiles({}, found.image_folder), []
    for file in found.images:
        if stem(file) in images.cases:
            unused.append(Unused(file, f"{images.cases[stem(file)][0].name} is an image of the same case"))
        else:
            images.cases[stem(file)] = {0: file}
    return images, unused


def labels_beside(files: Sequence[Path]) -> list[Path]:
    """The label maps among files of one folder, where they belong to the others by their names; else none."""
    labels = [file for file in files if is_label(stem(file))]
    images = [file for file in files if file not in labels]
    if not (labels and images):
        return []
    folder, unique = images[0].parent, {stem(file): file for file in labels}
    return labels if _by_rest(_Files(folder, images, folder, list(unique.values()))) else []


def inferred_channels(first: Path, files: int) -> tuple[str, ...]:
    """Names of channels that nothing names, from the first image and the number of files per case."""
    channels = files if files > 1 else read_header(first).channels
    if is_raster(first) and files == 1:
        return ("R", "G", "B") if channels == 3 else ("grey",)
    return tuple(f"channel_{number}" for number in range(channels))


def is_plain(root: Path, names: FileNames) -> bool:
    """Whether a folder of label maps lies beside others: some have the name of one, or the user gives it."""
    filled = _filled(root)
    return {is_label(path.name) for path in filled} == {True, False} or names.label in {path.name for path in filled}


def _filled(root: Path) -> list[Path]:
    """The folders that hold files of a supported format, sorted."""
    return [path for path in folders_in(root) if data_files(path)]


def _one_folder(root: Path) -> _Files | None:
    """Images and label maps that lie in one folder and are told apart by their names; None if there are not both."""
    files = [] if _filled(root) else data_files(root)
    labels = [file for file in files if is_segmentation(file) or is_label(stem(file))]
    images = [file for file in files if file not in labels]
    return _Files(root, images, root, labels) if images and labels else None


def _two_folders(root: Path, names: FileNames) -> _Files:
    """The folder of images and that of labels."""
    filled = _filled(root)
    label_folders = [path for path in filled if is_label(path.name)]
    if names.label is not None:
        label_folders = [_named(filled, names.label, "--label-name")]
    image_folders = [path for path in filled if path not in label_folders and images_in(path)]
    if names.label is not None:  # others, such as those of a second reader, stay aside
        image_folders = [path for path in image_folders if not is_label(path.name)]
    if len(names.images) > 1:
        hint = "name the one folder of images, in which files end in _0000, _0001 and so on"
        raise UserError("channels lie in one folder", where="--image-name", hint=hint)
    if names.images:
        image_folders = [
            _named([path for path in filled if path not in label_folders], names.images[0], "--image-name")
        ]
    chosen = []
    for kind, folders in (("images", image_folders), ("labels", label_folders)):
        # Of imagesTr and imagesTs the one for training.
        folders = [path for path in folders if _TRAINING.search(path.name)] if len(folders) > 1 else folders
        if len(folders) != 1:
            raise _unclear(root, kind, filled)
        chosen.append(folders[0])
    image_folder, label_folder = chosen
    return _Files(image_folder, images_in(image_folder), label_folder, data_files(label_folder))


def _named(folders: list[Path], name: str, option: str) -> Path:
    for folder in folders:
        if folder.name == name:
            return folder
    there = ", ".join(path.name for path in folders)
    raise UserError(f"no folder is named {name[:60]!r}", where=option, hint=f"give one of: {there}")


def _unclear(root: Path, kind: str, filled: list[Path]) -> UserError:
    """What to say where none or several folders may hold the images or the labels."""
    if not filled and holds_dicom(root):
        return no_image(root)
    inner = [path.name for path in folders_in(root) if is_plain(path, FileNames())]
    names = ", ".join(f"{path.name}/" for path in filled) or f"none with {', '.join(ENDINGS)}"
    hint = f"{LAYOUTS}; the labels' folder is recognised by its name"
    if not filled and (files := data_files(root)):
        names = f"none; files here have names such as {files[0].name}"
        hint = f"{LAYOUTS}; label maps beside their images are recognised by their names"
    elif not filled and inner:
        names, hint = ", ".join(f"{name}/" for name in inner), f"give a data set in it: {root / inner[0]}"
    elif kind == "labels" and filled:
        hint += ", or named by --label-name"
    return UserError(f"cannot identify the folder of {kind}; folders here: {names}", where=root, hint=hint)
