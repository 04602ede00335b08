"""Images and label maps as small NIfTI files, for the viewer of a page."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping

import nibabel
import numpy as np

from seg_transfer.data.image import Image
from seg_transfer.errors import UserError
from seg_transfer.evaluation.drawing import PALETTE
from seg_transfer.evaluation.planes import planes_of

MOST_VOXELS = 1_500_000
"""Larger volumes are thinned out: about 1 MB of a page for each image."""
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
LABEL_OPACITY = 150
MOST_VALUES = 255
"""Values of a label map that get a colour."""
CROSSHAIR_SHARE = 0.004
"""Width of the crosshair over the longest side of the volume."""


def thinning(shape: tuple[int, ...], spacing: tuple[float, ...], most: int = MOST_VOXELS) -> tuple[int, int, int]:
    """Every how many voxels along ``(x, y, z)`` one is kept, so that at most ``most`` are; the finest axes first."""
    steps = [1, 1, 1]
    while math.prod(math.ceil(size / step) for size, step in zip(shape, steps, strict=True)) > most:
        kept = [
            size * step if length > step else math.inf for size, step, length in zip(spacing, steps, shape, strict=True)
        ]
        steps[kept.index(min(kept))] += 1
    return steps[0], steps[1], steps[2]


def plane_of(image: Image) -> str:
    """The only plane that is shown: ``image`` of a 2D image, the plane of a single slice; empty for a volume."""
    planes = planes_of(image)
    return "" if len(planes) > 1 else planes[0].name or "image"


def shown_affine(image: Image) -> np.ndarray:
    """Voxel -> mm; rows of 2D images run downwards, as their files have them."""
    return image.affine @ np.diag([1.0, -1.0, 1.0, 1.0]) if image.unit == "pixel" else image.affine


def image_file(image: Image, steps: tuple[int, int, int]) -> bytes:
    """The first channel as 8-bit ``.nii.gz``, from its 0.5 to its 99.5 percentile; a colour image in its colours."""
    thinned = image.array[:, :: steps[0], :: steps[1], :: steps[2]]
    if _is_coloured(image):
        return _file(_colour(thinned), shown_affine(image), steps)
    array = thinned[0]
    low, high = np.percentile(array, (0.5, 99.5))
    scaled = np.clip((array - low) / max(float(high - low), 1e-6), 0, 1) * 255
    return _file(np.rint(scaled).astype(np.uint8), shown_affine(image), steps)


def exact_file(image: Image) -> bytes:
    """The image with all voxels, as ``.nii`` of its own values; of other channels than colours the first one."""
    array = _colour(image.array) if _is_coloured(image) else image.array[0]
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    return _image(array, shown_affine(image)).to_bytes()


def label_file(
    labels: np.ndarray, affine: np.ndarray, values: Mapping[str, int], steps: tuple[int, int, int] = (1, 1, 1)
) -> bytes:
    """A label map ``(x, y, z)`` as ``.nii.gz`` of the numbers 1, 2, … in the order of ``values``; others become 0.

    Raises:
        UserError: If there are more than 255 values.
    """
    if len(values) > MOST_VALUES:
        what = f"{len(values)} labels, at most {MOST_VALUES} have a colour"
        raise UserError(what, hint="give label maps, not images")
    labels = labels[:: steps[0], :: steps[1], :: steps[2]]
    ranked = sorted(values.values())
    number_of = {value: number for number, value in enumerate(values.values(), start=1)}
    numbers = np.array([0, *(number_of[value] for value in ranked)], np.uint8)
    place = np.searchsorted(ranked, labels, side="right")
    known = place > 0
    known[known] = np.array(ranked)[place[known] - 1] == labels[known]
    numbered = np.where(known, numbers[place], np.uint8(0))
    return _file(numbered, affine, steps)


def colours(names: list[str]) -> dict[str, list[int] | list[str]]:
    """NiiVue's table of colours for label maps of :func:`label_file`."""
    shades = [(0, 0, 0), *(_shade(index) for index in range(len(names)))]
    red, green, blue = (list(part) for part in zip(*shades, strict=True))
    opacity = [0, *[LABEL_OPACITY] * len(names)]
    return {"R": red, "G": green, "B": blue, "A": opacity, "labels": ["", *names]}


def crosshair(image: Image) -> float:
    """Width of the crosshair, in mm."""
    return CROSSHAIR_SHARE * max(size * step for size, step in zip(image.array.shape[1:], image.spacing, strict=True))


def _is_coloured(image: Image) -> bool:
    return image.unit == "pixel" and len(image.array) == 3 and image.array.dtype == np.uint8


def _colour(array: np.ndarray) -> np.ndarray:
    """``(3, x, y, z)`` of 8 bits -> ``(x, y, z)`` of NIfTI's RGB."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)).view(RGB)[..., 0]


def _shade(index: int) -> tuple[int, int, int]:
    colour = PALETTE[index % len(PALETTE)]
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _file(array: np.ndarray, affine: np.ndarray, steps: tuple[int, int, int]) -> bytes:
    return gzip.compress(_image(array, affine @ np.diag([*steps, 1.0])).to_bytes(), compresslevel=6, mtime=0)


def _image(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return image
