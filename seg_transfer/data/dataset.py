"""A data set on disk: its cases, channels and labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic_core import to_jsonable_python

from seg_transfer.data.case_folders import FileNames
from seg_transfer.data.description import Region, named_values
from seg_transfer.data.formats import (
    TIFF_ENDINGS,
    check_packages,
    ending,
    is_raster,
    is_segmentation,
    is_supported,
    is_there,
    read_header,
    stem,
    stored_unit,
)
from seg_transfer.data.formats.masks import is_masks
from seg_transfer.data.geometry import Unit
from seg_transfer.data.image import Image
from seg_transfer.data.instances import core_and_border
from seg_transfer.data.label_values import LARGEST_IN_2D, map_note, to_classes
from seg_transfer.data.layouts import read_layout
from seg_transfer.data.naming import Case, ChannelFiles, Unused, extra_channels, images_in, split_channel
from seg_transfer.data.no_image import no_image
from seg_transfer.data.plain_folders import Layout, labels_beside
from seg_transfer.data.segmentation import not_an_image
from seg_transfer.errors import UserError
from seg_transfer.util.names import is_file_name
from seg_transfer.util.records import JsonRecord, content_digest, seal
from seg_transfer.util.texts import first_of

logger = logging.getLogger(__name__)

__all__ = ["Case", "Dataset", "find_cases", "find_dataset", "find_images"]


class Dataset(JsonRecord):
    """The description of a data set, known before any voxel is read.

    Attributes:
        name: From ``dataset.json``, else the folder's.
        root: The folder.
        layout: Layout of the files.
        dimension: 2 if every case is one slice (a 2D image, or a volume of one slice), else 3.
        unit: Unit of every spacing.
        channel_names: In order; inferred in layouts without a description.
        labels: (name, value in the files), background (0) first, then ascending by value; inferred in layouts without
            a description.
        regions: The network's outputs if labels are nested or overlap, in order of precedence.
        ignore: Value of voxels that are not annotated, if there is one.
        fill_nan: Whether values of images that are not finite are replaced (:func:`~seg_transfer.data.image.filled`).
        label_map_note: How values map to class indices, if they are not 0, 1, 2, ...; else empty.
        cases: Sorted by identifier.
        unused: Files among images and labels that belong to no case.
        groups: Case -> group, such as its patient, where a list of cases or the folders have them.
    """

    noun: ClassVar[str] = "data set's description"
    if_missing: ClassVar[str] = "run `segtl plan DATASET` first"
    if_wrong: ClassVar[str] = "plan again"

    version: Literal[3] = 3
    name: str
    root: Path
    layout: Layout
    dimension: Literal[2, 3]
    unit: Unit
    channel_names: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    regions: tuple[Region, ...] = ()
    ignore: int | None = None
    fill_nan: bool = False
    label_map_note: str = ""
    cases: tuple[Case, ...]
    unused: tuple[Unused, ...] = ()
    groups: dict[str, str] | None = None

    @classmethod
    def upgrade(cls, content: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 wrote each region as a list; version 2 had no groups."""
        if version == 2:
            return content
        regions = [dict(zip(Region.model_fields, region, strict=False)) for region in content.get("regions", ())]
        return content | {"regions": regions}

    def pieces(self) -> Iterator[str]:
        """JSON, one case at a time."""
        without_cases = self.model_copy(update={"cases": ()}).to_json()
        before, after = without_cases.removesuffix("\n}").split('\n  "cases": []', 1)
        yield before + '\n  "cases": ['
        for number, case in enumerate(self.cases):
            text = json.dumps(to_jsonable_python(case), indent=2, ensure_ascii=False)
            yield f"{',' if number else ''}\n{text}".replace("\n", "\n    ")
        yield ("\n  ]" if self.cases else "]") + after
        yield seal(content_digest(json.loads(without_cases) | {"cases": map(to_jsonable_python, self.cases)}))

    def files(self) -> Iterator[Path]:
        """The files of all cases, with those that hold the voxels of headers."""
        return (part for case in self.cases for part in case.stored)

    def select(self, ids: Collection[str]) -> Dataset:
        """The data set with these cases only.

        Raises:
            UserError: If one of them does not exist.
        """
        missing = sorted(set(ids) - {case.id for case in self.cases})
        if missing:
            raise UserError(
                f"no such case: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
                where=self.root,
                hint=f"cases are called such as {self.cases[0].id}" if self.cases else None,
            )
        selected = set(ids)
        return self.model_copy(update={"cases": tuple(case for case in self.cases if case.id in selected)})

    @property
    def declared(self) -> tuple[int, ...]:
        """Every value that label files may hold: the labels' values, then that of the ignore label."""
        return (*(value for _, value in self.labels), *(() if self.ignore is None else (self.ignore,)))

    @property
    def names(self) -> dict[str, int]:
        """Name -> value of every label, as :func:`~seg_transfer.data.image.read_label` needs for segmentations."""
        return named_values(self.labels, self.ignore)

    def classes(self, label: Image) -> np.ndarray:
        """Class indices ``(x, y, z)`` of a label ``(1, x, y, z)``: the position of each value in :attr:`declared`.

        Numbers of objects become cores and borders.

        Returns:
            uint8, or uint16 from 256 labels on.

        Raises:
            UserError: If a value occurs that is not declared.
        """
        numbers = label.array[0]
        return to_classes(core_and_border(numbers, label.spacing) if self.instances else numbers, self.declared)

    @property
    def instances(self) -> bool:
        """Whether label files hold numbers of objects."""
        return any(region.numbered for region in self.regions)


def find_dataset(folder: Path, *, workers: int | None = 0, names: FileNames | None = None) -> Dataset:
    """Find the cases, channels and labels of a data set.

    Args:
        folder: In nnU-Net raw layout (v1 or v2) or MSD layout, both with a ``dataset.json``; or with a subfolder of
            images and one of labels (named like label, mask, seg, gt or annotation), with the same file names. Or
            with a folder per patient (:mod:`seg_transfer.data.case_folders`), or in BIDS
            (:mod:`seg_transfer.data.bids`). Or a file: a list of cases (:mod:`seg_transfer.data.case_list`).
        workers: Processes that read label files to infer labels; 0 works in this one, None takes what pays.
        names: Names of images and label maps in folders of patients and BIDS.

    Raises:
        UserError: If the data set as a whole is unusable. Problems of single cases, such as a missing file, are found
            by :func:`seg_transfer.data.checks.check_dataset`.
    """
    root = folder.absolute()
    contents = read_layout(root, names or FileNames(), workers=workers)
    check_packages(path for case in contents.cases for path in case.files)
    if contents.layout == "list":
        root = root.parent
    for case in contents.cases:
        if not is_file_name(case.id):
            hint = "rename its files: a case's name becomes that of a folder"
            raise UserError(f"{case.id!r} cannot be the name of a case", where=case.images[0], hint=hint)
    units = {stored_unit(case.images[0]): case for case in contents.cases}
    rasters = {is_raster(case.images[0]) for case in contents.cases}
    differ_in_size = len(units) > 1 and all(ending(case.images[0]) in TIFF_ENDINGS for case in units.values())
    if len(rasters) > 1 and not differ_in_size:
        raise UserError("volumes and 2D images are mixed", where=root, hint="make a data set of each kind")
    if len(units) > 1:
        hint = "export it again with the size of its pixels, or all images without"
        raise UserError("it has no pixel size, but other images have", where=units["pixel"].images[0], hint=hint)
    if rasters == {True} and (beyond := [value for _, value in contents.labels if not 0 <= value <= LARGEST_IN_2D]):
        what = f"2D label maps cannot be written with the values {first_of(beyond, 10)}"
        raise UserError(what, where=root, hint=f"number the labels from 0 to at most {LARGEST_IN_2D}")
    (unit,) = units
    dimension: Literal[2, 3] = 2 if rasters == {True} or all(map(_is_one_slice, contents.cases)) else 3
    if unit == "pixel" and dimension == 3:
        logger.warning(f"{root}: its stacks have no pixel size: a pixel counts as 1 along all axes, also across slices")
    return Dataset(
        **vars(contents),
        root=root,
        dimension=dimension,
        unit=unit,
        label_map_note=map_note([value for _, value in contents.labels]),
    )


def _is_one_slice(case: Case) -> bool:
    """Whether the case's first file has one slice, or cannot be read."""
    try:
        return read_header(case.images[0]).shape[2] == 1
    except UserError:
        return True


def find_images(path: Path, channels: int) -> list[Case]:
    """Find cases to predict.

    Args:
        path: A folder of images, or one image (any of its channel files).
        channels: Number of the model's channels. Files whose names differ only in a suffix of ``_`` and a channel's
            four digits are one case, such as ``liver_01_0000.nii.gz`` and ``liver_01_0001.nii.gz``. A file that holds
            all channels is a case by itself.

    Returns:
        Cases without labels, sorted by identifier. Missing channel files have their expected names.

    Raises:
        UserError: If there is no image, two files are the same channel of a case, a file is a channel that the model
            does not have (:func:`~seg_transfer.data.naming.extra_channels`), or a package for its format is missing.
    """
    one = is_there(path) and not is_masks(path)
    if one and not is_supported(path):
        raise no_image(path)
    if one and is_segmentation(path):
        raise not_an_image(path)
    folder = path.parent if one else path
    files = images_in(folder) if folder.is_dir() else []
    if not one and (labels := labels_beside(files)):
        logger.warning(
            f"{folder}: {len(labels)} label maps beside their images are no images, such as {labels[0].name}"
        )
        files = [file for file in files if file not in labels]
    check_packages([path] if one else files)
    extra = extra_channels(files, channels)
    if one:
        wanted = _case_and_channel(path, channels)[0]
        files = [file for file in files if _case_and_channel(file, channels)[0] == wanted]
        # A named file is the whole input of one channel; with more, the case's other files belong to it.
        extra = [file for file in extra if file.name == path.name or (channels > 1 and _named(file) == _named(path))]
    if extra:
        names = ", ".join(file.name for file in extra[:3]) + (f" and {len(extra) - 3} more" if len(extra) > 3 else "")
        what = f"the model has {channels} channel(s), but there is a further one: {names}"
        hint = (
            "move extra channels away; if the four digits belong to a case's name, write it without the _ before them"
        )
        raise UserError(what, where=path, hint=hint)
    images = ChannelFiles({}, folder)
    for file in files:
        case, number = _case_and_channel(file, channels)
        if number in images.cases.setdefault(case, {}):
            raise UserError(f"{images.cases[case][number].name} is the same image", where=file, hint="move one away")
        images.cases[case][number] = file
    if not images.cases:
        raise no_image(path)
    cases = []
    for case, numbered in sorted(images.cases.items()):
        one_file = list(numbered) == [0] and (channels == 1 or _holds_channels(numbered[0], channels))
        cases.append(Case(case, images.of(case, 1 if one_file else channels)))
    return cases


def find_cases(paths: Iterable[Path], channels: int) -> list[Case]:
    """The cases to predict of several paths, see :func:`find_images`; a case named twice by the same files counts once.

    Raises:
        UserError: If different files are the same case; and as :func:`find_images` does.
    """
    cases: dict[str, Case] = {}
    for path in paths:
        for case in find_images(path, channels):
            known = cases.setdefault(case.id, case)
            if known.images != case.images:
                what = f"{known.images[0]} would be the same case, {case.id}"
                raise UserError(what, where=case.images[0], hint="predict them into different folders")
    return list(cases.values())


def _named(file: Path) -> str:
    """A file's name without any four digits of a channel."""
    return (split_channel(stem(file)) or (stem(file),))[0]


def _case_and_channel(file: Path, channels: int) -> tuple[str, int]:
    """Case and channel number; a suffix that is no channel of the model, such as scan_2021, belongs to the name."""
    case, number = split_channel(stem(file)) or (stem(file), 0)
    return (case, number) if number < channels else (stem(file), 0)


def _holds_channels(file: Path, channels: int) -> bool:
    try:
        return read_header(file).channels == channels
    except UserError:
        return False
