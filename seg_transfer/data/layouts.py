"""The layouts of data sets: nnU-Net raw (v1 and v2), MSD, two plain folders, patient folders, BIDS, a list of cases.

Errors here concern the data set as a whole. Missing and misnamed files of single cases are reported together by
:mod:`seg_transfer.data.checks`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seg_transfer.data.bids import is_bids, read_bids
from seg_transfer.data.case_folders import (
    IMAGE_KIND,
    FileNames,
    FoundCases,
    are_patients,
    choose_files,
    find_patients,
)
from seg_transfer.data.case_list import is_case_list, read_case_list
from seg_transfer.data.description import channel_names, label_scheme
from seg_transfer.data.formats import ENDINGS, is_raster, is_segmentation, is_there, read_header, stem
from seg_transfer.data.label_values import infer_labels
from seg_transfer.data.naming import (
    Case,
    ChannelFiles,
    by_channel,
    case_name,
    data_files,
    images_in,
    match_labels,
)
from seg_transfer.data.no_image import holds_dicom, no_image
from seg_transfer.data.plain_folders import (
    LAYOUTS,
    DatasetContents,
    Layout,
    inferred_channels,
    is_plain,
    read_folders,
)
from seg_transfer.errors import UserError
from seg_transfer.util.local_files import no_folder
from seg_transfer.util.names import is_file_name
from seg_transfer.util.text_files import read_json

DESCRIPTION = "dataset.json"


def read_layout(root: Path, names: FileNames, *, workers: int | None) -> DatasetContents:
    """Detect the layout and read it; see :func:`seg_transfer.data.dataset.find_dataset`."""
    if is_case_list(root):
        _refuse(names)
        return _list(root, workers=workers)
    if not root.is_dir():
        raise no_folder(root, LAYOUTS)
    if is_bids(root):
        return _case_folders("bids", root, read_bids(root, names), workers=workers)
    description = root / DESCRIPTION
    content = read_description(root)
    if content is None:
        patients, unused = ([], []) if is_plain(root, names) else find_patients(root, names)
        if are_patients(patients) or (patients and names):
            return _case_folders("patients", root, choose_files(patients, root, names, unused), workers=workers)
        return read_folders(root, names, workers=workers)
    _refuse(names)
    # nnU-Net v1 lists its cases as MSD does, but its files carry a channel suffix that the list leaves out.
    listed = content.get("training")
    if isinstance(listed, list) and any(is_there(_listed(root, entry, "image", description)) for entry in listed):
        return _msd(root, content, description)
    if "dataset" in content:
        return _nnunet_listed(root, content, description)
    return _nnunet(root, content, description)


def _refuse(names: FileNames) -> None:
    """Refuse names of files where the layout has its own."""
    if names:
        option = "--image-name" if names.images else "--label-name"
        raise UserError("is for folders without dataset.json only", where=option, hint="omit it")


def read_description(root: Path) -> dict[str, Any] | None:
    """The content of a data set's ``dataset.json``; None where it has none.

    Raises:
        UserError: If it is no JSON object.
    """
    description = root / DESCRIPTION
    if not description.is_file():
        return None
    hint = "see nnU-Net's or MSD's documentation"
    content = read_json(description, hint)
    if not isinstance(content, dict):
        raise UserError("not a JSON object", where=description, hint=hint)
    return content


def _nnunet(root: Path, content: dict[str, Any], description: Path) -> DatasetContents:
    names = channel_names(content, description)
    suffix = str(content["file_ending"]) if "file_ending" in content else None
    images, images_unused = by_channel(root / "imagesTr", _files(root, "imagesTr", suffix))
    if not images.cases:
        raise UserError(
            f"no file is named <case>_<channel, four digits><ending>, for instance not {images_unused[0].file.name}",
            where=root / "imagesTr",
            hint="rename the images, such as liver_01_0000.nii.gz for the first channel of case liver_01",
        )
    channels = 1 if _one_file_per_case(images, len(names)) else len(names)
    label_files = _files(root, "labelsTr", suffix, segmented=images.cases)
    label_of, labels_unused = match_labels(images.cases, root / "labelsTr", label_files)
    return DatasetContents(
        layout="nnunet",
        name=str(content.get("name") or root.resolve().name),
        channel_names=names,
        **vars(label_scheme(content, description)),
        cases=tuple(Case(case, images.of(case, channels), label) for case, label in label_of.items()),
        unused=(*images_unused, *labels_unused),
    )


def _nnunet_listed(root: Path, content: dict[str, Any], description: Path) -> DatasetContents:
    """nnU-Net's list of files that may lie anywhere: {"dataset": {"case": {"images": [...], "label": "..."}}}."""
    listed = content["dataset"]
    hint = 'list each case as "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}}'
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"dataset is {str(listed)[:60]}", where=description, hint=hint)
    cases = []
    for name, entry in sorted(listed.items()):
        images = entry.get("images") if isinstance(entry, dict) else None
        files = [*images, entry.get("label")] if isinstance(images, list) else []
        if len(files) < 2 or not all(isinstance(file, str) for file in files):
            raise UserError(f"dataset: {name!r} does not name its images and its label", where=description, hint=hint)
        if not is_file_name(name):
            raise UserError(f"dataset: {name[:60]!r} cannot be the name of a file", where=description, hint=hint)
        *image_files, label = (listed_file(root, file) for file in files)
        cases.append(Case(case_name(name), tuple(image_files), label))
    return DatasetContents(
        layout="nnunet",
        name=str(content.get("name") or root.resolve().name),
        channel_names=channel_names(content, description),
        **vars(label_scheme(content, description)),
        cases=tuple(cases),
    )


def _one_file_per_case(images: ChannelFiles, channels: int) -> bool:
    """Whether ``_0000`` holds all channels, as RGB images do."""
    if images.several or channels == 1:
        return False
    try:
        return read_header(images.first).channels == channels
    except UserError:
        return is_raster(images.first)


def _msd(root: Path, content: dict[str, Any], description: Path) -> DatasetContents:
    cases = []
    for entry in content["training"]:
        image, label = (_listed(root, entry, kind, description) for kind in ("image", "label"))
        cases.append(Case(stem(image), (image,), label))
    names = [case.id for case in cases]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"training lists {repeated[0]} twice", where=description, hint="list each case once")
    return DatasetContents(
        layout="msd",
        name=str(content.get("name") or root.resolve().name),
        channel_names=channel_names(content, description),
        **vars(label_scheme(content, description)),
        cases=tuple(sorted(cases, key=lambda case: case.id)),
    )


def _listed(root: Path, entry: Any, kind: str, description: Path) -> Path:
    if not isinstance(entry, dict) or not isinstance(entry.get(kind), str):
        raise UserError(
            f"training: {entry!r} names no {kind}",
            where=description,
            hint='list each case as {"image": "./imagesTr/case.nii.gz", "label": "./labelsTr/case.nii.gz"}',
        )
    return listed_file(root, entry[kind])


def listed_file(root: Path, name: str) -> Path:
    """The file that a list names: below the data set, with slashes of either kind, and accents as the disk has them."""
    found = root / name
    if not _is_possible(found):
        what = f"{name[:60]!r} cannot be the name of a file"
        raise UserError(what, where=root / DESCRIPTION, hint="correct the name")
    if not os.path.lexists(found):
        found = root / name.replace("\\", "/")
    if not os.path.lexists(found) and found.parent.is_dir():
        same = [path for path in found.parent.iterdir() if case_name(path.name) == case_name(found.name)]
        found = same[0] if same else found
    return found


def _is_possible(path: Path) -> bool:
    """Whether a file could have this path: it is neither too long nor has characters that no name may have."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno not in (errno.ENAMETOOLONG, errno.EINVAL)
    except ValueError:
        return False
    return True


def _list(path: Path, *, workers: int | None) -> DatasetContents:
    found = read_case_list(path)
    there = [case for case in found.cases if all(map(is_there, case.files))]
    if not there:
        missing = next(file for file in found.cases[0].files if not is_there(file))
        hint = "paths are absolute, or relative to the folder of the list"
        raise UserError(
            f"no case has all of its files; the first one that is missing: {missing}", where=path, hint=hint
        )
    labels = [case.label for case in there if case.label is not None]
    return DatasetContents(
        layout="list",
        name=path.stem,
        channel_names=found.channels if found.channels != ("",) else inferred_channels(there[0].images[0], 1),
        **vars(infer_labels(labels, path, workers=workers)),
        cases=found.cases,
        groups=found.groups,
    )


def _case_folders(layout: Layout, root: Path, found: FoundCases, *, workers: int | None) -> DatasetContents:
    labels = [case.label for case in found.cases if case.label is not None and is_there(case.label)]
    first = next((case.images[0] for case in found.cases if is_there(case.images[0])), None)
    if first is None or not labels:
        what = f"no case has {'an image' if first is None else 'a label map'} that is there"
        raise UserError(what, where=root, hint="look for broken links")
    named = len(found.channels) > 1 or not (
        found.channels == (IMAGE_KIND,) or is_raster(first) or read_header(first).channels > 1
    )
    return DatasetContents(
        layout=layout,
        name=root.resolve().name,
        channel_names=found.channels if named else inferred_channels(first, 1),
        **vars(found.named(infer_labels(labels, root, workers=workers))),
        cases=found.cases,
        unused=found.unused,
        groups=found.groups,
    )


def _files(root: Path, name: str, suffix: str | None, *, segmented: Iterable[str] = ()) -> list[Path]:
    """The data files of a required folder, with the ending that dataset.json names, if it names one.

    ``segmented`` are cases that a segmentation of 3D Slicer may be for, if there is no file with this ending.
    """
    folder = root / name
    if not folder.is_dir():
        raise UserError(f"the folder {name} is missing", where=root, hint=f"dataset.json needs imagesTr and {name}")
    files = images_in(folder) if name == "imagesTr" else data_files(folder)
    if suffix is not None:
        named = {path: path.name.lower().endswith(suffix.lower()) for path in files}
        others = set(segmented) - {stem(path) for path in files if named[path]}
        files = [path for path in files if named[path] or (is_segmentation(path) and stem(path) in others)]
    if not files and holds_dicom(folder):
        raise no_image(folder)
    if not files:
        what = f"no file ends with {suffix or ' or '.join(ENDINGS)}"
        hint = "correct file_ending in dataset.json" if suffix else "put the files there"
        raise UserError(what, where=folder, hint=hint)
    return files
