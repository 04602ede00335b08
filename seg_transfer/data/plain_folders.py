"""What the reader of a layout finds, and the layout of a folder of images beside a folder of labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seg_transfer.data.case_folders import is_label
from seg_transfer.data.description import Region
from seg_transfer.data.formats import ENDINGS, is_raster, is_there, read_header, stem
from seg_transfer.data.label_values import infer_labels
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


def read_folders(root: Path, *, workers: int | None) -> DatasetContents:
    """Read a folder of images beside a folder of labels; see :func:`seg_transfer.data.dataset.find_dataset`."""
    image_folder, label_folder = _two_folders(root)
    image_files, label_files = images_in(image_folder), data_files(label_folder)
    label_names = {stem(file) for file in label_files}
    unused: list[Unused] = []
    if any(stem(file) in label_names for file in image_files):
        images = ChannelFiles({}, image_folder)
        for file in image_files:
            if stem(file) in images.cases:
                unused.append(Unused(file, f"{images.cases[stem(file)][0].name} is an image of the same case"))
            else:
                images.cases[stem(file)] = {0: file}
    elif any(parts[0] in label_names for file in image_files if (parts := split_channel(stem(file)))):
        images, unused = by_channel(image_folder, image_files)
    else:
        raise UserError(
            f"no label has the name of an image: images have names such as {image_files[0].name}, "
            f"labels such as {label_files[0].name}",
            where=root,
            hint="give each label the name of its image, without a channel suffix such as _0000",
        )
    files = 1 + max(number for numbers in images.cases.values() for number in numbers)
    label_of, labels_unused = match_labels(images.cases, label_folder, label_files)
    cases = tuple(Case(case, images.of(case, files), label) for case, label in label_of.items())
    return DatasetContents(
        layout="folders",
        name=root.resolve().name,
        channel_names=inferred_channels(images.first, files),
        **vars(infer_labels([file for file in label_of.values() if is_there(file)], label_folder, workers=workers)),
        cases=cases,
        unused=(*unused, *labels_unused),
    )


def inferred_channels(first: Path, files: int) -> tuple[str, ...]:
    """Names of channels that nothing names, from the first image and the number of files per case."""
    channels = files if files > 1 else read_header(first).channels
    if is_raster(first) and files == 1:
        return ("R", "G", "B") if channels == 3 else ("grey",)
    return tuple(f"channel_{number}" for number in range(channels))


def has_label_folder(root: Path) -> bool:
    """Whether some folders with files are named as those of labels, and others are not."""
    return {is_label(path.name) for path in _filled(root)} == {True, False}


def _filled(root: Path) -> list[Path]:
    """The folders that hold files of a supported format, sorted."""
    return [path for path in folders_in(root) if data_files(path)]


def _two_folders(root: Path) -> tuple[Path, Path]:
    """The folder of images and that of labels."""
    filled = _filled(root)
    label_folders = [path for path in filled if is_label(path.name)]
    image_folders = [path for path in filled if path not in label_folders and images_in(path)]
    chosen = []
    for kind, folders in (("images", image_folders), ("labels", label_folders)):
        # Of imagesTr and imagesTs the one for training.
        folders = [path for path in folders if _TRAINING.search(path.name)] if len(folders) > 1 else folders
        if len(folders) != 1:
            if not filled and holds_dicom(root):
                raise no_image(root)
            names = ", ".join(f"{path.name}/" for path in filled) or f"none with {', '.join(ENDINGS)}"
            what = f"cannot identify the folder of {kind}; folders here: {names}"
            raise UserError(what, where=root, hint=f"{LAYOUTS}; the labels' folder is recognised by its name")
        chosen.append(folders[0])
    return chosen[0], chosen[1]
