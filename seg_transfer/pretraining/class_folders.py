"""Images in class folders, decoded once into a memory-mapped array of small squares."""

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
from seg_transfer.util.files import file_stamp, whole_file
from seg_transfer.util.local_files import make_folder, no_folder
from seg_transfer.util.parallel import CaseFailure, map_cases
from seg_transfer.util.units import bytes_text

CACHE_VERSION = 1
WINDOW = (0.5, 99.5)
"""Percentiles of an image of more than 8 bits that become black and white."""
MOST_LISTED = 10
"""Broken images listed in a message."""
CHUNK = 64
"""Images that a process decodes at a time: sending small ones one by one takes longer than decoding."""


@dataclass(frozen=True)
class ClassFolders:
    """Images with their classes, sorted by class and path; ``labels`` are indices into ``classes``."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]


def find_images(folder: Path, classes: Sequence[str] | None = None) -> ClassFolders:
    """List the images in the sub-folders of a folder, each of which is a class.

    Args:
        folder: Parent of the class folders; images may be in sub-folders of a class. Hidden folders are skipped.
        classes: Allowed names of sub-folders, in the order of their labels; None: all sub-folders.

    Raises:
        UserError: If there is no such folder, it has fewer than two classes, or a class is unknown or empty.
    """
    if not folder.is_dir():
        raise no_folder(folder, "name a folder with one sub-folder of images per class")
    class_folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not class_folders:
        raise UserError("has no sub-folders", where=folder, hint="put the images of each class into one")
    names = tuple(classes or (path.name for path in class_folders))
    if len(names) < 2:
        hint = "a classifier needs at least two classes"
        raise UserError(f"has one class only, {names[0]!r}", where=folder, hint=hint)
    files: list[Path] = []
    labels: list[int] = []
    for path in class_folders:
        if path.name not in names:
            raise UserError("no class of the training images has this name", where=path, hint="rename or remove it")
        images = sorted(
            file for file in path.rglob("*") if file.name.lower().endswith(RASTER_ENDINGS) and file.is_file()
        )
        if not images:
            hint = f"add images ({', '.join(RASTER_ENDINGS)}), or remove the folder"
            raise UserError("has no images", where=path, hint=hint)
        files += images
        labels += [names.index(path.name)] * len(images)
    return ClassFolders(folder, names, tuple(files), tuple(labels))


def hold_out(images: ClassFolders, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split images at random, class by class, with at least one image of every class on each side.

    Returns:
        Sorted indices of the training images, and of the held-out ones.

    Raises:
        UserError: If a class has a single image.
    """
    labels = np.array(images.labels)
    generator = np.random.default_rng(seed)
    held_out: list[np.ndarray] = []
    for index, name in enumerate(images.classes):
        members = np.flatnonzero(labels == index)
        if len(members) < 2:
            hint = "add images (one to train on, one to hold out), or give other images with --val"
            raise UserError("has one image only", where=images.folder / name, hint=hint)
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held_out.append(generator.permutation(members)[:count])
    validation = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def stamp(files: Sequence[Path], side: int) -> str:
    """Hash that changes with the side and with the path, size or modification time of any file."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {side}".encode())
    for file in files:
        digest.update(f"{file.absolute()} {file_stamp(file)}\n".encode())
    return digest.hexdigest()[:16]


def decode(files: Sequence[Path], side: int, cache: Path) -> np.ndarray:
    """Decode every image, or load the array that an earlier call cached for the same files.

    Args:
        files: The images.
        side: Side of the squares in pixels; see :func:`read_square`.
        cache: Folder of the array; arrays of other files or another side in it are deleted.

    Returns:
        ``(image, channel, row, column)`` uint8, memory-mapped and read-only.

    Raises:
        UserError: If images cannot be read, with their names, or the disk is full.
    """
    path = cache / f"pixels-{stamp(files, side)}.npy"
    if not path.is_file():
        make_folder(cache)
        for outdated in cache.glob("pixels-*.npy"):
            outdated.unlink()
        with whole_file(path) as temporary:
            _decode(files, side, temporary)
    return np.load(path, mmap_mode="r")


def _decode(files: Sequence[Path], side: int, path: Path) -> None:
    shape = (len(files), 3, side, side)
    needed, free = int(np.prod(shape)), shutil.disk_usage(path.parent).free
    if needed > free:
        what = f"{bytes_text(needed)} are needed for the decoded images, {bytes_text(free)} are free"
        raise UserError(what, where=path.parent, hint="free disk space, give another -o, or choose a smaller --side")
    chunks = map_cases(
        partial(_read_chunk, side=side),
        [(start, files[start : start + CHUNK]) for start in range(0, len(files), CHUNK)],
        workers=case_workers(None, files),
        title="decoding",
        name=lambda chunk: f"{chunk[1][0]} and the {len(chunk[1]) - 1} after it",
    )
    broken: list[str] = []
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        data_start = file.tell()
        for (start, _), result in chunks:
            if isinstance(result, CaseFailure):
                raise UserError(f"cannot be decoded: {result.cause}", where=result.case)
            squares, causes = result
            broken += causes
            if not broken:
                # Not through the memory map: there a full disk kills the process instead of raising an error.
                file.seek(data_start + start * squares[0].nbytes)
                file.write(squares.tobytes())
    if broken:
        more = f"\n  and {len(broken) - MOST_LISTED} others" if len(broken) > MOST_LISTED else ""
        listed = "".join(f"\n  {cause}" for cause in sorted(broken)[:MOST_LISTED])
        what = f"{len(broken)} of {len(files)} images cannot be used:{listed}{more}"
        raise UserError(what, hint="repair or remove these files")


def _read_chunk(chunk: tuple[int, Sequence[Path]], side: int) -> tuple[np.ndarray, list[str]]:
    """The readable images as squares, and the causes for the others."""
    squares, causes = [], []
    for path in chunk[1]:
        try:
            squares.append(read_square(path, side))
        except UserError as error:
            causes.append(f"{error.where}: {error.what}")
    return np.array(squares), causes


def read_square(path: Path, side: int) -> np.ndarray:
    """Read an image, scale its shorter side and crop the longer one to the middle square.

    Grey images fill all three channels. Eight bits are not rescaled; otherwise the range between the percentiles
    :data:`WINDOW` becomes 0 to 255.

    Returns:
        ``(channel, row, column)`` uint8.

    Raises:
        UserError: If it cannot be read, or has values that are not finite.
    """
    array, header = read_array(path, label=False)
    if header.shape[2] > 1:
        raise UserError("has several pages", where=path, hint="store each page as an image of its own")
    pixels = array[..., 0].transpose(2, 1, 0)
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise UserError("has values that are not finite", where=path, hint="export it again")
        lower, upper = np.percentile(pixels, WINDOW)
        if lower == upper:  # nearly constant
            lower, upper = float(pixels.min()), float(pixels.max())
        scaled = (pixels - lower) / ((upper - lower) or 1)
        pixels = (255 * scaled.clip(0, 1)).round().astype(np.uint8)
    colours = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    square = ImageOps.fit(Pillow.fromarray(colours), (side, side), Pillow.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))
