"""Pictures in class folders, decoded once into one memory-mapped array of small squares."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from seg_transfer.data.formats import RASTER_ENDINGS, read_array
from seg_transfer.errors import UserError
from seg_transfer.util.environment import case_workers
from seg_transfer.util.files import file_stamp, make_folder, whole_file
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.units import bytes_text

CACHE_VERSION = 1
WINDOW = (0.5, 99.5)
"""Percentiles of a picture of more than 8 bits that become black and white."""
NAMED = 10
"""Broken pictures in a message."""
PART = 64
"""Pictures that a process decodes at a time: small ones take less time than handing them over one by one."""
FEW = 2000
"""So many pictures are decoded in this process: starting others takes longer."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of known class, in the order of class and path; ``labels`` are positions in ``classes``."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def find_pictures(folder: Path, classes: Sequence[str] | None = None) -> Pictures:
    """List the pictures below the sub-folders of ``folder``, each of which is a class.

    Args:
        folder: Where they lie; pictures may be in folders within a class's folder. Hidden folders are passed over.
        classes: The only names that sub-folders may have, in the order of their labels; None takes those there are.

    Raises:
        UserError: If there is no such folder, it has fewer than two classes, or a class is unknown or empty.
    """
    if not folder.is_dir():
        raise UserError("there is no such folder", where=folder)
    found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not found:
        raise UserError("has no sub-folders", where=folder, hint="put the pictures of each class into one of its own")
    names = tuple(classes or (path.name for path in found))
    if len(names) < 2:
        hint = "two classes at least are needed: a network that has nothing to tell apart learns nothing"
        raise UserError(f"has one class only, {names[0]!r}", where=folder, hint=hint)
    files: list[Path] = []
    labels: list[int] = []
    for path in found:
        if path.name not in names:
            raise UserError("no class of --data has this name", where=path, hint="rename it, or take it away")
        inside = sorted(one for one in path.rglob("*") if one.name.lower().endswith(RASTER_ENDINGS) and one.is_file())
        if not inside:
            hint = f"add pictures ({', '.join(RASTER_ENDINGS)}), or take the folder away"
            raise UserError("has no pictures", where=path, hint=hint)
        files += inside
        labels += [names.index(path.name)] * len(inside)
    return Pictures(folder, names, tuple(files), tuple(labels))


def hold_out(pictures: Pictures, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split pictures at random, class by class: positions to learn from and positions held out, both ascending.

    Of every class at least one picture goes to either side.

    Raises:
        UserError: If a class has a single picture.
    """
    labels = np.array(pictures.labels)
    generator = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for index, name in enumerate(pictures.classes):
        members = np.flatnonzero(labels == index)
        if len(members) < 2:
            hint = "add pictures (one is learnt from, one held out), or give a folder of others with --val"
            raise UserError("has one picture only", where=pictures.folder / name, hint=hint)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(generator.permutation(members)[:count])
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def stamp(files: Sequence[Path], side: int) -> str:
    """Changes with the side and with the path, size or modification time of any file."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {side}".encode())
    for file in files:
        digest.update(f"{file.absolute()} {file_stamp(file)}\n".encode())
    return digest.hexdigest()[:16]


def decode(files: Sequence[Path], side: int, cache: Path) -> np.ndarray:
    """Decode every picture, or take what an earlier call kept of the same files.

    Args:
        files: The pictures.
        side: Pixels of the squares; see :func:`read_square`.
        cache: Folder for the array; the array of other files or another side that lies there is deleted.

    Returns:
        ``(picture, channel, row, column)`` uint8, memory-mapped and read-only.

    Raises:
        UserError: If pictures cannot be read, which are then named, or the disk has no room.
    """
    path = cache / f"pixels-{stamp(files, side)}.npy"
    if not path.is_file():
        make_folder(cache)
        for former in cache.glob("pixels-*.npy"):
            former.unlink()
        with whole_file(path) as temporary:
            _decode(files, side, temporary)
    return np.load(path, mmap_mode="r")


def _decode(files: Sequence[Path], side: int, path: Path) -> None:
    shape = (len(files), 3, side, side)
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        what = f"{bytes_text(needed)} are needed for the decoded pictures, {bytes_text(free)} are free"
        raise UserError(what, where=path.parent, hint="free disk space, name another -o, or choose a smaller --side")
    parts = map_cases(
        partial(_read_part, side=side),
        [(start, files[start : start + PART]) for start in range(0, len(files), PART)],
        workers=0 if len(files) <= FEW else case_workers(),
        title="decoding",
        name=lambda part: f"{part[1][0]} and the {len(part[1]) - 1} after it",
    )
    broken: list[str] = []
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
        for (start, _), read in parts:
            if isinstance(read, CaseFailure):
                raise UserError(f"cannot be decoded: {read.cause}", where=read.case)
            squares, causes = read
            broken += causes
            if not broken:
                # Written as a file and not through the map: a full disk is then an error and not a dead process.
                file.seek(begin + start * squares[0].nbytes)
                file.write(squares.tobytes())
    if broken:
        more = f"\n  and {len(broken) - NAMED} others" if len(broken) > NAMED else ""
        listed = "".join(f"\n  {cause}" for cause in sorted(broken)[:NAMED])
        what = f"{len(broken)} of {len(files)} pictures cannot be used:{listed}{more}"
        raise UserError(what, hint="mend these files, or take them away")


def _read_part(part: tuple[int, Sequence[Path]], side: int) -> tuple[np.ndarray, list[str]]:
    """Some pictures as squares, those that cannot be read left out, and what is wrong with each of these."""
    squares, causes = [], []
    for path in part[1]:
        try:
            squares.append(read_square(path, side))
        except UserError as error:
            causes.append(f"{error.where}: {error.what}")
    return np.array(squares), causes


def read_square(path: Path, side: int) -> np.ndarray:
    """Read a picture as a square of three channels: its shorter side scaled, the middle of the longer one kept.

    Grey pictures fill all channels. Eight bits are kept as they are; of others the range between the percentiles
    :data:`WINDOW` becomes 0 to 255.

    Returns:
        ``(channel, row, column)`` uint8.

    Raises:
        UserError: If it cannot be read, or holds values that are not finite.
    """
    array, _ = read_array(path, label=False)
    pixels = array[..., 0].transpose(2, 1, 0)
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise UserError("holds values that are not finite", where=path, hint="export it anew")
        lower, upper = np.percentile(pixels, WINDOW)
        if lower == upper:  # all but constant
            lower, upper = float(pixels.min()), float(pixels.max())
        scaled = (pixels - lower) / ((upper - lower) or 1)
        pixels = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
    colours = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    square = ImageOps.fit(Pillow.fromarray(colours), (side, side), Pillow.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
