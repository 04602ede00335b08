"""Data sets in BIDS: images of subjects, label maps in derivatives, names of labels in ``dseg.tsv``.

Images are ``sub-XX[/ses-YY]/anat/sub-XX[_ses-YY]_KIND``; label maps are
``derivatives/PIPELINE/sub-XX/.../sub-XX[_ses-YY]_..._dseg`` or ``_mask``. See
https://bids-specification.readthedocs.io (Brain Imaging Data Structure 1.10).
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from seg_transfer.data.case_folders import CaseFiles, FileNames, FoundCases, choose_files, is_label
from seg_transfer.data.formats import NIFTI_ENDINGS, stem
from seg_transfer.data.naming import Unused, data_files
from seg_transfer.errors import UserError
from seg_transfer.util.text_files import read_text

logger = logging.getLogger(__name__)

DERIVATIVES = "derivatives"
DSEG, MASK = "dseg", "mask"
LONGEST_NAME = 60
_VALUE = re.compile(r"[0-9]{1,9}")
_TSV_HINT = "write the columns index and name, separated by tabs, with a line for each label"


def is_bids(root: Path) -> bool:
    """Whether a folder is a data set in BIDS: subjects, and derivatives or a description."""
    return any(path.is_dir() for path in root.glob("sub-*")) and (
        (root / DERIVATIVES).is_dir() or (root / "dataset_description.json").is_file()
    )


def read_bids(root: Path, names: FileNames) -> FoundCases:
    """Find the images of subjects, and the label map of each in the derivatives.

    Args:
        root: The data set's folder.
        names: Names that the user gives: of images ``T1w`` or ``acq-x_T1w``, of label maps the pipeline, what follows
            subject and session, or both, such as ``manual/desc-tumour_dseg``.

    Raises:
        UserError: If there are no images or label maps, the choice is ambiguous, or ``dseg.tsv`` is wrong.
    """
    cases: dict[tuple[str, str], CaseFiles] = {}
    unused: list[Unused] = []
    for file in _images(root):
        subject, session, kind = _parsed(file, root)
        if is_label(kind):
            continue  # such as the mask of what was defaced
        one = cases.setdefault((subject, session), CaseFiles((subject, session) if session else (subject,)))
        if kind in one.kinds:
            unused.append(Unused(file, f"{one.kinds[kind].name} is the same image"))
        else:
            one.kinds[kind] = file
    if not cases:
        what = "no subject has an image, such as sub-01/anat/sub-01_T1w.nii.gz"
        raise UserError(what, where=root, hint="images are looked for in anat/ of subjects and of sessions")
    labels: dict[str, dict[tuple[str, str], Path]] = {}
    for pipeline, file in _label_files(root):
        subject, session, rest = _parsed(file, pipeline)
        labels.setdefault(f"{pipeline.name}/{rest}", {})[subject, session] = file
    chosen = _chosen(labels, names.label, root)
    for key, file in sorted(labels[chosen].items()):
        if key in cases:
            cases[key].kinds[chosen] = file
        else:
            unused.append(Unused(file, "no image belongs to this label map"))
    if others := sorted(set(labels) - {chosen}):
        logger.info(f"label maps: {chosen}; not used: {', '.join(others[:6])}")
    found = choose_files(list(cases.values()), root, FileNames(names.images, chosen), unused)
    return replace(found, names=_label_names(root, chosen, list(labels[chosen].values())))


def _images(root: Path) -> Iterator[Path]:
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for folder in sorted(root.glob(pattern)):
            if folder.is_dir():
                yield from (file for file in data_files(folder) if file.name.lower().endswith(NIFTI_ENDINGS))


def _label_files(root: Path) -> Iterator[tuple[Path, Path]]:
    """Pipeline and file of every label map."""
    folder = root / DERIVATIVES
    pipelines = [folder, *sorted(path for path in folder.glob("*") if path.is_dir() and path.name[:4] != "sub-")]
    for pipeline in pipelines:
        for subject in sorted(path for path in pipeline.glob("sub-*") if path.is_dir()):
            for place in (subject, *sorted(path for path in subject.rglob("*") if path.is_dir())):
                for file in data_files(place):
                    if stem(file).rpartition("_")[2] in (DSEG, MASK):
                        yield pipeline, file


def _parsed(file: Path, root: Path) -> tuple[str, str, str]:
    """Subject, session and the rest of a file's name; subject and session also from its folders."""
    parts = stem(file).split("_")
    places = [*parts, *file.relative_to(root).parts]
    subject, session = (next((part for part in places if part.startswith(key)), "") for key in ("sub-", "ses-"))
    return subject, session, "_".join(part for part in parts if part[:4] not in ("sub-", "ses-"))


def _chosen(labels: dict[str, dict[tuple[str, str], Path]], name: str | None, root: Path) -> str:
    """The kind of label maps: as named, else the only dseg, else the only mask."""
    if not labels:
        what = f"no label map is in {DERIVATIVES}/*/sub-*: none ends with _dseg or _mask"
        raise UserError(what, where=root, hint="such as derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz")
    listed = ", ".join(f"{kind} ({len(labels[kind])})" for kind in sorted(labels)[:6])
    if name is not None:
        fitting = [kind for kind in sorted(labels) if name == kind or name in kind.split("/")]
        if len(fitting) != 1:
            what = f"{'several kinds of' if fitting else 'no'} label map fit {name[:60]!r}; there are {listed}"
            raise UserError(what, where="--label-name", hint=f"give one of: {', '.join(sorted(labels)[:6])}")
        return fitting[0]
    for suffix in (DSEG, MASK):
        kinds = [kind for kind in sorted(labels) if kind.endswith(suffix)]
        if len(kinds) == 1:
            return kinds[0]
        if kinds:
            break
    raise UserError(f"several kinds of label map: {listed}", where=root, hint=f"choose one: --label-name {kinds[0]}")


def _label_names(root: Path, chosen: str, files: list[Path]) -> dict[int, str]:
    """Names of labels: of ``dseg.tsv`` of the pipeline or the data set, or beside the label maps."""
    pipeline_name, _, rest = chosen.partition("/")
    tokens = set(rest.split("_"))
    if MASK in tokens:
        named = [token.partition("-")[2] for key in ("label-", "desc-") for token in tokens if token.startswith(key)]
        return {1: named[0]} if named else {}
    top = root / DERIVATIVES
    pipeline = top if pipeline_name == DERIVATIVES else top / pipeline_name
    for folder in (pipeline, top, root):
        fitting = [path for path in sorted(folder.glob("*.tsv")) if set(path.stem.split("_")) <= tokens]
        if fitting:
            return _read_tsv(max(fitting, key=lambda path: len(path.stem)))
    names: dict[int, str] = {}
    for path in (file.with_name(f"{stem(file)}.tsv") for file in files):
        if path.is_file():
            for value, name in _read_tsv(path).items():
                if names.setdefault(value, name) != name:
                    what = f"label {value} is {name[:LONGEST_NAME]} here and {names[value][:LONGEST_NAME]} elsewhere"
                    raise UserError(what, where=path, hint="give the same value the same name everywhere")
    return names


def _read_tsv(path: Path) -> dict[int, str]:
    try:
        rows = list(csv.DictReader(read_text(path, _TSV_HINT).splitlines(), delimiter="\t", strict=True))
    except csv.Error as error:
        raise UserError(f"not readable as a table: {error}", where=path, hint=_TSV_HINT) from None
    names: dict[int, str] = {}
    for number, row in enumerate(rows, start=2):
        value, name = ((row.get(column) or "").strip() for column in ("index", "name"))
        if not _VALUE.fullmatch(value) or not 0 < len(name) <= LONGEST_NAME:
            what = f"line {number} has the index {value[:LONGEST_NAME]!r} and the name {name[:LONGEST_NAME]!r}"
            raise UserError(what, where=path, hint=_TSV_HINT)
        names[int(value)] = name
    return names
