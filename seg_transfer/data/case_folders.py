"""Data sets with a folder per case: which kinds of file are the channels, and which one is the label map.

A kind is what a file's name says apart from patient and visit, such as ``ct`` or ``seg``. Names are the same in all
folders, or each folder holds exactly one image and one label map.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seg_transfer.data.description import LabelScheme
from seg_transfer.data.formats import ending, is_segmentation, stem
from seg_transfer.data.formats.masks import EVERY, is_masks
from seg_transfer.data.name_pairs import pair_names
from seg_transfer.data.naming import Case, Unused, case_name, data_files, folders_in
from seg_transfer.errors import UserError

logger = logging.getLogger(__name__)

LABEL = re.compile(
    r"label|mask|seg|annotation|ground.?truth|manual|(?<![a-z])(?:gt|msk|anno|lbl)|gt(?![a-z])", re.IGNORECASE
)
"""What the name of a folder or file of label maps holds."""
IMAGE_KIND = "image"
"""Kind of a file that is named only after its patient, and of the only image in each folder."""
LISTED = 6
BY_LIST = "write a list of cases (case,image,label) as CSV and give it in place of the folder"


@dataclass(frozen=True)
class FileNames:
    """Names that tell images from label maps in folders of patients.

    Attributes:
        images: Kinds of the channels, in order; empty: found by their names.
        label: Kind of the label map; None: found by its name.
    """

    images: tuple[str, ...] = ()
    label: str | None = None

    def __bool__(self) -> bool:
        return bool(self.images) or self.label is not None


@dataclass
class CaseFiles:
    """The files of one case.

    Attributes:
        names: Its patient and, where it has one, its visit.
        kinds: Kind -> file.
    """

    names: tuple[str, ...]
    kinds: dict[str, Path] = field(default_factory=dict)

    @property
    def case(self) -> str:
        """Its name."""
        return case_name("_".join(self.names))

    @property
    def patient(self) -> str:
        """Its group."""
        return case_name(self.names[0])


@dataclass(frozen=True)
class FoundCases:
    """Cases that a layout with a folder per case holds.

    Attributes:
        cases: Sorted by name.
        channels: Kinds of the image files.
        groups: Case -> patient, where one has several cases.
        unused: Files that belong to no case.
        names: Value -> name of a label, as far as the data set tells.
    """

    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    groups: dict[str, str] | None
    unused: tuple[Unused, ...] = ()
    names: dict[int, str] = field(default_factory=dict)

    def named(self, found: LabelScheme) -> LabelScheme:
        """The labels in the files with the names that the data set tells.

        Raises:
            UserError: If two labels then have the same name.
        """
        labels = tuple((self.names.get(value, name) if value else name, value) for name, value in found.labels)
        if repeated := [name for name, count in Counter(name for name, _ in labels).items() if count > 1]:
            raise UserError(f"two labels are named {repeated[0][:60]}", hint="give each label a name of its own")
        return LabelScheme(labels, found.regions, found.ignore)


def find_patients(root: Path, names: FileNames) -> tuple[list[CaseFiles], list[Unused]]:
    """The cases in folders of patients: ``root/PATIENT/files``, or ``root/PATIENT/VISIT/files``.

    Label maps may lie in a folder of their own in that of a case, and images too: ``root/PATIENT/images``,
    ``root/PATIENT/masks``. Or both have trees of their own: ``root/images/PATIENT``, ``root/labels/PATIENT``.

    Args:
        root: The data set's folder.
        names: Names that the user gives; without any, a folder may hold several cases.

    Returns:
        The cases, and files whose kind another file of the case has.
    """
    cases: list[CaseFiles] = []
    unused: list[Unused] = []
    image_tree, label_tree = _trees(root)
    for patient in folders_in(image_tree):
        if files := data_files(patient) or _one_each(patient):
            places = [(patient, files)]
        else:
            places = [(visit, found) for visit in folders_in(patient) if (found := data_files(visit))]
            if len({is_label(visit.name) for visit, _ in places}) > 1:
                continue  # a data set, such as train/images and train/labels, is no patient
        for folder, files in places:
            parts = folder.relative_to(image_tree).parts
            one = CaseFiles(parts)
            for file in files:
                kind = file.parent.name if file.parent != folder and len(files) > 1 else _kind(file, parts)
                if kind in one.kinds:
                    unused.append(Unused(file, f"{one.kinds[kind].name} is the same kind of file of the same case"))
                else:
                    one.kinds[kind] = file
            if label_tree is not None:
                one.kinds |= _labels_in(label_tree.joinpath(*parts), label_tree.name)
            elif not any(map(is_label, one.kinds)):
                for inner in filter(lambda path: is_label(path.name), folders_in(folder)):
                    one.kinds |= _labels_in(inner, inner.name)
            cases.append(one)
    _make_alike(cases)
    if not names and (several := _several_pairs(cases)):
        return several, [*unused, *_left_over(cases, several)]
    return _as_pairs(cases), unused


def _trees(root: Path) -> tuple[Path, Path | None]:
    """The folder of patients with images, and that with label maps if it is another one."""
    folders = folders_in(root)
    if not any(is_label(path.name) for path in folders):
        return root, None  # without a look into every patient's folder
    trees = [path for path in folders if not data_files(path) and folders_in(path)]
    labels = [path for path in trees if is_label(path.name)]
    images = [path for path in trees if path not in labels]
    return (images[0], labels[0]) if len(images) == len(labels) == 1 else (root, None)


def _one_each(patient: Path) -> list[Path]:
    """The images of a case that lie in folders of their own, beside a folder of label maps; else these are visits."""
    inner = {path: files for path in folders_in(patient) if (files := data_files(path))}
    images = [files for path, files in inner.items() if not is_label(path.name)]
    apart = 0 < len(images) < len(inner) and all(len(files) == 1 for files in images)
    return [file for files in images for file in files] if apart else []


def _labels_in(folder: Path, kind: str) -> dict[str, Path]:
    """The label map in a folder; several files are masks of single structures."""
    files = data_files(folder) if folder.is_dir() else []
    endings = {ending(file) for file in files}
    if len(endings) != 1:
        return {}
    return {kind: files[0] if len(files) == 1 else folder / f"{EVERY}{endings.pop()}"}


def _make_alike(cases: Sequence[CaseFiles]) -> None:
    """Where a folder of labels holds masks in some cases, the only file that it holds in another one is a mask too."""
    masks = {kind for one in cases for kind, path in one.kinds.items() if is_masks(path)}
    for one in cases:
        for kind in masks & one.kinds.keys():
            path = one.kinds[kind]
            one.kinds[kind] = path if is_masks(path) else path.with_name(f"{EVERY}{ending(path)}")


def are_patients(cases: Sequence[CaseFiles]) -> bool:
    """Whether folders are those of patients: one holds an image and a label map, or three share two kinds of file."""
    if any(len({is_label(kind) for kind in one.kinds}) == 2 for one in cases):
        return True
    shared = Counter(kind for one in cases for kind in one.kinds)
    return len(cases) > 2 and sum(count > len(cases) / 2 for count in shared.values()) > 1


def is_label(kind: str) -> bool:
    """Whether a kind is named as one of label maps."""
    return LABEL.search(kind) is not None


def choose_files(found: Sequence[CaseFiles], root: Path, names: FileNames, unused: Sequence[Unused] = ()) -> FoundCases:
    """Decide which kinds are the channels and which one is the label map.

    A kind that most cases have is a channel; a case without it has a missing file, which the checks report.

    Args:
        found: The cases.
        root: The data set's folder, for messages.
        names: Names that the user gives.
        unused: Files that belong to no case.

    Raises:
        UserError: If the kinds leave a choice, or a given name is none of them.
    """
    counts = Counter(kind for one in found for kind in one.kinds)
    label = names.label or _only_label(counts, len(found), root)
    images = names.images or tuple(kind for kind in sorted(counts) if not is_label(kind) and kind != label)
    for kind, option in (*((image, "--image-name") for image in images), (label, "--label-name")):
        if kind not in counts:
            what = f"no file is named {kind[:60]!r}; in {len(found)} folders are {_listing(counts)}"
            raise UserError(what, where=option, hint=f"give one of: {', '.join(sorted(counts)[:LISTED])}")
    rare = [kind for kind in images if counts[kind] <= len(found) / 2] if not names.images else []
    if rare or not images:
        what = f"cannot tell which files are the images: in {len(found)} folders are {_listing(counts)}"
        hint = f"name them, in the order of the channels, such as --image-name {images[0] if images else 'ct'}"
        raise UserError(what, where=root, hint=f"{hint}; or {BY_LIST}")
    cases = [
        Case(one.case, tuple(_file(one, kind, found, root) for kind in images), _file(one, label, found, root))
        for one in found
    ]
    patients = Counter(one.patient for one in found)
    several = max(patients.values()) > 1
    return FoundCases(
        cases=tuple(sorted(cases, key=lambda case: case.id)),
        channels=images,
        groups={one.case: one.patient for one in found} if several else None,
        unused=tuple(unused),
    )


def _only_label(counts: Counter[str], folders: int, root: Path) -> str:
    labels = sorted(kind for kind in counts if is_label(kind))
    if len(labels) == 1:
        return labels[0]
    why = f"these look like label maps: {', '.join(labels[:LISTED])}" if labels else "no file is named as a label map"
    merge = "; put masks of single structures into a folder of each patient, such as masks/" if labels else ""
    hint = f"name it, such as --label-name {labels[0] if labels else counts.most_common()[-1][0]}; or {BY_LIST}{merge}"
    raise UserError(f"{why}; in {folders} folders are {_listing(counts)}", where=root, hint=hint)


def _as_pairs(cases: list[CaseFiles]) -> list[CaseFiles]:
    """Where each folder holds one image and one label map, whatever their names, they get the same kinds."""
    split = [sorted(one.kinds, key=is_label) for one in cases]
    if len({kind for kinds in split for kind in kinds}) > 2 and all(
        len(kinds) == 2 and not is_label(kinds[0]) and is_label(kinds[1]) for kinds in split
    ):
        for one, (image, label) in zip(cases, split, strict=True):
            one.kinds = {IMAGE_KIND: one.kinds[image], "label": one.kinds[label]}
    return cases


def _several_pairs(found: Sequence[CaseFiles]) -> list[CaseFiles]:
    """A case for each label map and its image, where folders hold several and call them differently.

    Such are the frames of a film: ``patient1/frame01, frame01_gt, frame12, frame12_gt``, ``patient2/frame01, ...``.
    Empty where most kinds of label map are in more than half of the folders: they may be kinds to choose from.
    """
    counts = Counter(kind for one in found for kind in one.kinds if is_label(kind))
    rare = [kind for kind, count in counts.items() if count <= len(found) / 2]
    if len(found) < 2 or len(rare) <= len(counts) / 2:
        return []
    cases = []
    for one in found:
        labels = [kind for kind in one.kinds if is_label(kind)]
        pairs = pair_names(labels, [kind for kind in one.kinds if kind not in labels])
        if not pairs:
            return []
        for label, image in sorted(pairs.items()):
            cases.append(CaseFiles((*one.names, image), {IMAGE_KIND: one.kinds[image], "label": one.kinds[label]}))
    return cases if len(cases) > len(found) else []


def _left_over(found: Sequence[CaseFiles], pairs: Sequence[CaseFiles]) -> list[Unused]:
    """Images without a label map; a kind that most folders have, such as the whole film, is meant to have none."""
    used = {file for one in pairs for file in one.kinds.values()}
    counts = Counter(kind for one in found for kind in one.kinds)
    left = [(kind, file) for one in found for kind, file in one.kinds.items() if file not in used]
    usual = {kind for kind, _ in left if counts[kind] > len(found) / 2}
    if usual:
        logger.info(f"left out, since no label map belongs to them: {', '.join(sorted(usual)[:LISTED])}")
    return [Unused(file, "no label map belongs to it") for kind, file in left if kind not in usual]


def _file(one: CaseFiles, kind: str, found: Sequence[CaseFiles], root: Path) -> Path:
    """A case's file of a kind; where it has none, its name and place after those of another case."""
    if kind in one.kinds:
        return one.kinds[kind]
    having = [other for other in found if kind in other.kinds]
    like = next((other for other in having if len(other.names) == len(one.names)), having[0])
    expected = str(like.kinds[kind].relative_to(root))
    for theirs, own in zip(like.names, one.names, strict=False):
        expected = expected.replace(theirs, own)
    return root / expected


def _kind(file: Path, parts: Sequence[str]) -> str:
    """What a file's name says apart from the names of its folders."""
    kind = stem(file)
    for part in (case_name(part) for part in ("_".join(parts), *reversed(parts))):
        if kind.casefold().startswith(part.casefold()):
            kind = kind[len(part) :]
        elif kind.casefold().endswith(part.casefold()):
            kind = kind[: -len(part)]
    kind = kind.strip("-_. ")
    if is_segmentation(file):
        return kind if is_label(kind) else f"{kind}.seg".lstrip(".")
    return kind or IMAGE_KIND


def _listing(counts: Counter[str]) -> str:
    """Kinds with the number of folders that hold them, the most frequent first."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(shown) - LISTED} more kinds" if len(shown) > LISTED else ""
    return ", ".join(f"{kind} ({count})" for kind, count in shown[:LISTED]) + more
