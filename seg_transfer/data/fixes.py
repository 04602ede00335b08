"""What of a data set can be fixed without doubt, and a copy in which it is.

Units of length become mm, compression follows the name, endings are in lower case, label maps hold whole numbers on the
grid of their image, and ``dataset.json`` is UTF-8 without a byte order mark. No image voxel changes. All else is copied
byte by byte.
"""

from __future__ import annotations

import json
import posixpath
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.formats import (
    NIFTI_ENDINGS,
    ending,
    is_there,
    is_zarr,
    nifti_fix,
    read_header,
    readable,
    stored_in,
    write_volume,
)
from seg_transfer.data.formats.header import Header
from seg_transfer.data.formats.masks import is_masks
from seg_transfer.data.geometry import Grid, grid_difference, to_native
from seg_transfer.data.image import read_label
from seg_transfer.data.layouts import DESCRIPTION, listed_file, read_description
from seg_transfer.errors import UserError
from seg_transfer.util.addresses import address_of
from seg_transfer.util.files import whole_file, whole_folder, write_text
from seg_transfer.util.local_files import check_folder, make_folder
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.remote_folders import fetch_folder
from seg_transfer.util.text_files import has_byte_order_mark

ROUNDING = 1e-6
"""Affines that differ by more, relative to the spacing, are made equal: other programs compare them."""


class Fix(NamedTuple):
    """What is wrong with a file, and can be fixed without doubt."""

    file: Path
    what: str


def fixes(case: Case) -> list[Fix]:
    """What can be fixed of a case's files; files that cannot be read are left out."""
    found = []
    for path in case.files:
        try:
            faults = _faults(case, path)
        except UserError:
            continue
        found += [Fix(path, what) for what in faults]
    return found


def description_fixes(dataset: Dataset) -> list[Fix]:
    """What can be fixed of the data set's ``dataset.json``; nothing where it has none."""
    if dataset.layout == "list":
        return []
    path, content = dataset.root / DESCRIPTION, read_description(dataset.root)
    if content is None:
        return []
    found = []
    if has_byte_order_mark(path):
        found.append("it starts with a byte order mark, which strict readers of JSON refuse")
    if any("\\" in container[key] for container, key in _entries(content)):
        found.append("it names files with backslashes")
    return [Fix(path, what) for what in found]


def write_fixed(dataset: Dataset, folder: Path, *, workers: int) -> None:
    """Write a fixed copy of a data set: its ``dataset.json``, and the files of its cases.

    Files keep their places below the data set. Those outside of it go to ``imagesTr`` and ``labelsTr``. The folder
    appears as a whole or not at all.

    Args:
        dataset: The data set; files with problems are copied as they are.
        folder: The copy; it must not exist, or be empty.
        workers: Processes; 0 works in this one.

    Raises:
        UserError: If the folder is not empty, lies in the data set, or cannot be written.
    """
    check_copy(dataset, folder)
    places = _places(dataset)
    with whole_folder(folder) as beside:
        function = partial(_fix_case, places={old: beside / new for old, new in places.items()})
        results = map_cases(function, dataset.cases, workers=workers, title="fixing", name=lambda case: case.id)
        for case, result in results:
            if isinstance(result, CaseFailure):
                raise UserError(result.cause, where=case.images[0], hint="see whether the file opens elsewhere")
        _fix_description(dataset, beside / DESCRIPTION, places)


def check_copy(dataset: Dataset, folder: Path) -> None:
    """Check before long work that a copy can be written.

    Raises:
        UserError: If the folder is not empty, or lies in the data set.
    """
    if dataset.layout == "list":
        hint = "copy the files into a folder of images and one of labels first"
        raise UserError("a list of cases cannot be copied: its files may lie anywhere", where=folder, hint=hint)
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError("this folder is not empty", where=folder, hint="name a new folder for the fixed copy")
    if folder.resolve().is_relative_to(dataset.root.resolve()):
        raise UserError("this folder lies in the data set", where=folder, hint="name a folder beside it")


def _faults(case: Case, path: Path) -> list[str]:
    found: list[str] = []
    if is_masks(path):
        return found
    if not path.name.endswith(ending(path)):
        found.append(f"its ending is {path.name[-len(ending(path)) :]}, which some programs do not know")
    if ending(path) in NIFTI_ENDINGS:
        found += nifti_fix.faults(path, read_header(path))
    if path == case.label:
        found += _label_faults(read_header(path), read_header(case.images[0]).grid)
    return found


def _label_faults(header: Header, grid: Grid) -> list[str]:
    """How a label map differs from whole numbers on the grid of its image.

    Nothing is said of one that does not lie on it, and of a segmentation, which has a grid of its own.
    """
    if header.segments is not None or grid_difference(grid, header.grid):
        return []
    found = []
    if header.dtype.kind == "f":
        found.append("its label values are floating-point numbers")
    if header.grid.orientation != grid.orientation:
        found.append(f"its axes run {header.grid.orientation}, those of its image {grid.orientation}")
    elif not np.allclose(header.affine, grid.affine, rtol=0, atol=ROUNDING * min(grid.spacing)):
        found.append("its affine differs from that of its image by rounding")
    return found


def _fix_case(case: Case, *, places: Mapping[Path, Path]) -> None:
    for path in case.files:
        if not is_there(path):
            continue
        target = places[path]
        make_folder(target.parent)
        try:
            fixed = _fixed_file(case, path, target)
        except UserError:  # it cannot be read
            fixed = False
        if not fixed:
            _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    """Copy an image, and the voxels of an ``.mhd`` beside it, which keep their name."""
    if is_zarr(path):
        with whole_folder(target) as folder:
            if address_of(path) is not None:
                fetch_folder(path, folder)
            else:
                shutil.copytree(path, folder, dirs_exist_ok=True)
        return
    for part in stored_in(path):
        to = target if part == path else target.with_name(part.name)
        if part != path and to.exists() and not is_masks(path):
            hint = "store header and voxels as one file, such as .mha"
            raise UserError(f"{to} would hold the voxels of several images", where=path, hint=hint)
        with whole_file(to, needed=part.stat().st_size) as temporary:
            shutil.copyfile(part, temporary)


def _fixed_file(case: Case, path: Path, target: Path) -> bool:
    """Write a fixed copy of a file if its content has a fault."""
    if is_masks(path):
        return False
    header = read_header(path)
    if path == case.label and _label_faults(header, grid := read_header(case.images[0]).grid):
        label = read_label(path).array[0]
        write_volume(target, to_native(label, grid).astype(_smallest(label)), _in_mm(grid))
    elif ending(path) in NIFTI_ENDINGS and nifti_fix.faults(path, header):
        with readable(path), whole_file(target) as temporary:
            nifti_fix.fix(path, temporary)
    else:
        return False
    return True


def _in_mm(grid: Grid) -> Grid:
    return grid if grid.nifti is None else replace(grid, nifti=grid.nifti.in_mm())


def _smallest(label: np.ndarray) -> np.dtype:
    """The smallest integer type that holds a label map's values."""
    return np.result_type(np.min_scalar_type(int(label.min())), np.min_scalar_type(int(label.max())))


def _places(dataset: Dataset) -> dict[Path, Path]:
    """File -> its place below the copy."""
    places: dict[Path, Path] = {}
    for case in dataset.cases:
        names = [f"imagesTr/{case.id}_{channel:04d}" for channel in range(len(case.images))] + [f"labelsTr/{case.id}"]
        for path, name in zip(case.files, names, strict=False):
            place = Path(name)
            normal = Path(posixpath.normpath(path))
            if normal.is_relative_to(dataset.root):
                place = normal.relative_to(dataset.root)
            stem = place.name if place == Path(name) else place.name[: -len(ending(path))]
            places[path] = place.with_name(stem + ending(path))
    return places


def _entries(content: Any) -> list[tuple[Any, Any]]:
    """Where a ``dataset.json`` lists files: a container and a key of it for each."""
    found: list[tuple[Any, Any]] = []
    training = content.get("training")
    for entry in training if isinstance(training, list) else []:
        found += [(entry, key) for key in ("image", "label") if isinstance(entry, dict)]
    listed = content.get("dataset")
    for entry in listed.values() if isinstance(listed, dict) else []:
        if isinstance(entry, dict) and isinstance(entry.get("images"), list):
            found += [(entry["images"], index) for index in range(len(entry["images"]))] + [(entry, "label")]
    return [
        (container, key)
        for container, key in found
        if isinstance(container[key] if isinstance(container, list) else container.get(key), str)
    ]


def _fix_description(dataset: Dataset, target: Path, places: Mapping[Path, Path]) -> None:
    path, content = dataset.root / DESCRIPTION, read_description(dataset.root)
    if content is None:
        return
    before = json.dumps(content)
    for container, key in _entries(content):
        place = places.get(listed_file(dataset.root, container[key]))
        if place is not None and posixpath.normpath(container[key]) != place.as_posix():
            container[key] = f"./{place.as_posix()}"
    if isinstance(content.get("file_ending"), str):
        content["file_ending"] = content["file_ending"].lower()
    if json.dumps(content) == before and not has_byte_order_mark(path):
        shutil.copyfile(path, target)
    else:
        write_text(target, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
