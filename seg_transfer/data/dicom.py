"""DICOM series as volumes: which series a folder holds, and whether their slices make a regular grid.

Files are read by SimpleITK (GDCM), which decompresses JPEG, JPEG-LS, JPEG 2000 and RLE. What a series has to be for its
slices to be a volume follows the image plane module of the standard (PS3.3, C.7.6.2): position of the first pixel,
direction cosines of a row and of a column, and the spacing of pixels, between rows first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seg_transfer.data.formats import check_affine
from seg_transfer.data.formats.header import Header, check_free_memory
from seg_transfer.data.geometry import Grid
from seg_transfer.data.no_image import is_dicom
from seg_transfer.errors import UserError
from seg_transfer.util.extras import check_extra
from seg_transfer.util.progress import track

if TYPE_CHECKING:
    import SimpleITK as sitk

TAGS = {
    "study": "0020|000d",
    "series": "0020|000e",
    "instance": "0008|0018",
    "modality": "0008|0060",
    "description": "0008|103e",
    "number": "0020|0011",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "spacing": "0028|0030",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "samples": "0028|0002",
    "frames": "0028|0008",
}
DIRECTION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine within a series."""
POSITION_TOLERANCE = 0.02
"""Largest distance of a slice from its place on a regular grid, in slice spacings; and of the first pixel from the
normal of the slices, in pixels per slice."""
GAP = 1.5
"""A step of at least this many usual ones is a gap where slices are missing."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One file of a series: its tags as texts, without those that it lacks."""

    path: Path
    tags: dict[str, str]

    def numbers(self, tag: str, count: int) -> np.ndarray | None:
        """The numbers of a tag; None unless it has so many finite ones."""
        try:
            values = np.array([float(part) for part in self.tags.get(tag, "").split("\\")])
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() else None


@dataclass(frozen=True)
class Series:
    """A series.

    Attributes:
        uid: Its identifier.
        study: The identifier of its study.
        modality: Such as CT.
        description: As the scanner wrote it; may name a person.
        number: In the study.
        slices: Its files, along the normal of the slices if it is a volume.
        grid: Of the volume, in the order of columns, rows and slices; None if it is none.
        problem: Why it is no volume, and what helps; empty if it is one.
    """

    uid: str
    study: str
    modality: str
    description: str
    number: str
    slices: tuple[Slice, ...]
    grid: Grid | None = None
    problem: str = ""


def find_series(folder: Path) -> list[Series]:
    """Find the series in a folder and everything below it, sorted by study, number and identifier.

    Only headers are read. Files without DICOM's magic bytes are passed over.

    Raises:
        UserError: If there is no such folder, no DICOM file in it, or SimpleITK is not installed.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", where=folder, hint="name the folder of a DICOM study or series")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and is_dicom(path))
    if not paths:
        raise UserError("it holds no DICOM file", where=folder, hint="name the folder of a DICOM study or series")
    check_extra("dicom", "reading DICOM", only="SimpleITK", where=folder)
    found: dict[str, list[Slice]] = {}
    for path in track(paths, total=len(paths), title="reading headers"):
        read = _read_tags(path)
        found.setdefault(read.tags.get("series", f"without an identifier: {path.name}"), []).append(read)
    series = [_series(uid, slices) for uid, slices in found.items()]
    return sorted(series, key=lambda one: (one.study, one.number.zfill(8), one.uid))


def read_series(series: Series) -> tuple[np.ndarray, Grid]:
    """Read the voxels of a series that is a volume: ``(i, j, k)`` along columns, rows and slices.

    Values are rescaled to the modality's unit (Hounsfield units of CT): integers where the factors are whole, of 16
    bits if they suffice, else float32.

    Raises:
        UserError: If a file is damaged, or the volume does not fit into memory.
    """
    import SimpleITK as sitk

    assert series.grid is not None, series.problem
    volume: np.ndarray | None = None
    for index, one in enumerate(series.slices):
        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(one.path), imageIO="GDCMImageIO"))
        except RuntimeError as error:
            raise _damaged(one.path, error) from None
        array = array.reshape(array.shape[-2:]).T
        if array.shape != series.grid.shape[:2]:
            what = f"its pixels are {array.shape}, its header says {series.grid.shape[:2]}"
            raise UserError(what, where=one.path, hint="export the series again")
        kind = np.dtype(np.int32 if array.dtype.kind in "iu" else np.float32)
        if volume is None:
            check_free_memory(Header(series.grid, 1, kind), kind, one.path)
            volume = np.empty(series.grid.shape, kind, order="F")
        wider = np.promote_types(volume.dtype, kind)  # slices may have factors of their own
        volume = volume.astype(wider, copy=False)
        volume[..., index] = array
    assert volume is not None, "a series has a file"
    if volume.dtype == np.int32:
        volume = volume.astype(_smallest(volume), copy=False)
    return volume.astype(np.float32, copy=False) if volume.dtype == np.float64 else volume, series.grid


def _smallest(volume: np.ndarray) -> np.dtype:
    """The first type of 16 bits that holds all values, else the volume's own."""
    lowest, highest = int(volume.min()), int(volume.max())
    limits = [np.iinfo(kind) for kind in (np.int16, np.uint16)]
    return next((of.dtype for of in limits if of.min <= lowest and highest <= of.max), volume.dtype)


def _read_tags(path: Path) -> Slice:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return Slice(path, {})
    return Slice(path, {name: _tag(reader, tag) for name, tag in TAGS.items() if reader.HasMetaDataKey(tag)})


def _tag(reader: sitk.ImageFileReader, tag: str) -> str:
    return reader.GetMetaData(tag).encode("utf-8", "replace").decode("utf-8").strip().strip("\0").strip()


def _series(uid: str, slices: Sequence[Slice]) -> Series:
    tags = slices[0].tags
    found = Series(
        uid=uid,
        study=tags.get("study", ""),
        modality=tags.get("modality", ""),
        description=tags.get("description", ""),
        number=tags.get("number", ""),
        slices=tuple(slices),
    )
    try:
        ordered, grid = _volume(slices)
    except UserError as error:
        return replace(found, problem=f"{error.what}; {error.hint}" if error.hint else error.what)
    return replace(found, slices=tuple(ordered), grid=grid)


def _volume(slices: Sequence[Slice]) -> tuple[list[Slice], Grid]:
    """The slices in the order of the normal, and their grid.

    Raises:
        UserError: If they do not make a regular grid.
    """
    unread = [one for one in slices if not one.tags]
    if unread:
        raise UserError(f"{len(unread)} file(s) cannot be read, such as {unread[0].path.name}", hint="copy them again")
    for tag, expected, what in (
        ("samples", {"1", ""}, "its pixels are colours"),
        ("frames", {"1", ""}, "several frames are in one file (an enhanced or a moving image)"),
    ):
        if {one.tags.get(tag, "") for one in slices} - expected:
            raise UserError(what, hint="convert it to NIfTI with another program")
    first = slices[0]
    sizes = {(one.tags.get("rows", ""), one.tags.get("columns", "")) for one in slices}
    if len(sizes) > 1:
        raise UserError(f"its slices have {len(sizes)} sizes", hint="separate them, they are several images")
    positions, directions, spacings = (
        [numbers for one in slices if (numbers := one.numbers(tag, count)) is not None]
        for tag, count in (("position", 3), ("orientation", 6), ("spacing", 2))
    )
    names = {"position": positions, "orientation": directions, "pixel spacing": spacings}
    lacking = [name for name, found in names.items() if len(found) < len(slices)]
    if lacking:
        raise UserError(f"slices have no {' and no '.join(lacking)}", hint="only CT, MR and PET series are volumes")
    direction, spacing = directions[0], spacings[0]
    if np.ptp(directions, axis=0).max() > DIRECTION_TOLERANCE:
        hint = "separate them: a localizer has several directions"
        raise UserError("its slices have different orientations", hint=hint)
    if np.ptp(spacings, axis=0).max() > DIRECTION_TOLERANCE * spacing.max():
        raise UserError("its slices have different pixel spacings", hint="separate them, they are several images")
    row, column = direction[:3], direction[3:]
    if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=DIRECTION_TOLERANCE):
        raise UserError("its direction cosines are not orthonormal", hint="export it again")
    order = np.argsort([position @ np.cross(row, column) for position in positions], kind="stable")
    ordered = [slices[index] for index in order]
    step = _step(np.array(positions)[order], np.cross(row, column), spacing)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([row * spacing[1], column * spacing[0], step], axis=1)
    lps[:3, 3] = np.array(positions)[order][0]
    affine = lps.copy()
    affine[:3] = _LPS_TO_RAS @ lps[:3]
    try:
        shape = (int(first.tags["columns"]), int(first.tags["rows"]), len(slices))
    except (KeyError, ValueError):
        raise UserError("it does not say how many pixels its slices have", hint="export it again") from None
    grid = Grid(shape, affine)
    check_affine(Header(grid, 1, np.dtype(np.int16)), "the series")
    return ordered, grid


def _step(positions: np.ndarray, normal: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """From one slice to the next, in LPS mm; ``positions`` are in the order of the normal.

    Raises:
        UserError: If slices are missing, or lie twice at a place, at irregular distances, or askew.
    """
    if len(positions) == 1:
        hint = "a single slice has no thickness of its grid: give the whole series"
        raise UserError("it has one slice", hint=hint)
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    if (steps < POSITION_TOLERANCE * max(usual, 1e-3)).any():
        count = int((steps < POSITION_TOLERANCE * max(usual, 1e-3)).sum())
        hint = "separate them: they may be several times, echoes or reconstructions, or copies"
        raise UserError(f"{count} slice(s) lie where another one does", hint=hint)
    if (steps > GAP * usual).any():
        missing = round(float((steps[steps > GAP * usual] / usual - 1).sum()))
        raise UserError(f"about {missing} slice(s) are missing, of {len(positions) + missing}", hint="export it again")
    regular = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
    if np.abs(along - regular).max() > POSITION_TOLERANCE * usual * len(along) ** 0.5:
        what = f"the distances of its slices vary from {steps.min():.4g} to {steps.max():.4g} mm"
        raise UserError(what, hint="resample it to a regular grid")
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    askew = float(np.linalg.norm(step - (step @ normal) * normal))
    if askew > POSITION_TOLERANCE * spacing.min():
        degrees = float(np.degrees(np.arctan2(askew, step @ normal)))
        raise UserError(f"its gantry was tilted by {degrees:.1f} degrees", hint="resample it to an upright grid")
    return step


def _damaged(path: Path, error: RuntimeError) -> UserError:
    cause = " ".join(str(error).split())[-200:]
    return UserError(f"cannot be read: {cause}", where=path, hint="copy or export the series again")
