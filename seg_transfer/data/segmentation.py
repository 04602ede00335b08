"""Turns a 3D Slicer segmentation into a label map: segments by their names, in the grid of the image.

The value of a segment says nothing of what it shows: Slicer numbers segments in each file by itself, and may start
again in each layer. Labels are therefore found by the names of segments, and have one value in all cases of a data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from seg_transfer.data.description import BACKGROUND, IGNORE
from seg_transfer.data.formats import read_header
from seg_transfer.data.formats.header import Segment, check_free_memory
from seg_transfer.data.geometry import Grid, offset_in
from seg_transfer.errors import UserError

_NAMES_HINT = "name segments as the data set's labels are named, or export the segmentation as a labelmap"


def not_an_image(path: Path | str) -> UserError:
    """The error for a segmentation in place of an image."""
    hint = "give the image that was segmented"
    return UserError("this is a segmentation of 3D Slicer, not an image", where=path, hint=hint)


def has_segments(path: Path) -> bool:
    """Whether a file is a segmentation; not if it cannot be read."""
    try:
        return read_header(path).segments is not None
    except UserError:
        return False


def merged(layers: np.ndarray, segments: Sequence[Segment], names: Mapping[str, int] | None, path: Path) -> np.ndarray:
    """Merge the layers of a segmentation into one label map.

    Args:
        layers: ``(layer, i, j, k)``, integers.
        segments: The file's segments.
        names: Label name -> value; None if nothing says what value a name has.
        path: The file, for messages.

    Returns:
        Label values ``(1, i, j, k)``.

    Raises:
        UserError: If voxels are of no segment, or of two with different names, or of one whose name is no label's.
    """
    own_names = sorted({segment.name for segment in segments})
    numbers = {name: number for number, name in enumerate(own_names, 1)}
    owner = np.zeros(layers.shape[1:], np.min_scalar_type(len(own_names)))  # number of the name; 0: none
    held: set[int] = set()
    overlaps: Counter[tuple[int, int]] = Counter()
    for index, layer in enumerate(layers):
        of_value = {0: 0, **{segment.value: numbers[segment.name] for segment in segments if segment.layer == index}}
        for k in range(layer.shape[-1]):  # plane by plane, to save memory
            plane, found = owner[..., k], _looked_up(layer[..., k], of_value, path)
            both = (plane > 0) & (found > 0) & (plane != found)
            overlaps.update(zip(plane[both].tolist(), found[both].tolist(), strict=True))
            np.copyto(plane, found, where=found > 0, casting="unsafe")
            held |= set(np.unique(found).tolist()) - {0}
    if overlaps:
        pairs = [
            f"{own_names[a - 1]!r} and {own_names[b - 1]!r} in {count}" for (a, b), count in overlaps.most_common(3)
        ]
        what = f"segments overlap: {', '.join(pairs)} voxel(s)" + (", ..." if len(overlaps) > 3 else "")
        hint = (
            "a voxel has one label: remove the overlap in 3D Slicer (masking: overwrite other segments), or export the "
            "segmentation as a labelmap; of nested regions, segment the parts, and list regions of them in dataset.json"
        )
        raise UserError(what, where=path, hint=hint)
    values = {number: _value(own_names[number - 1], names, path) for number in sorted(held)}
    table = np.zeros(len(own_names) + 1, np.result_type(np.uint8, *map(np.min_scalar_type, values.values())))
    for number, value in values.items():
        table[number] = value
    return table[owner][np.newaxis]


def _looked_up(plane: np.ndarray, of_value: Mapping[int, int], path: Path) -> np.ndarray:
    """The entry of each stored value."""
    stored = np.array(sorted(of_value), np.int64)
    position = np.minimum(np.searchsorted(stored, plane), len(stored) - 1)
    strange = stored[position] != plane
    if strange.any():
        what = f"{strange.sum()} voxel(s) of a plane hold values that no segment has, such as {plane[strange][0]}"
        raise UserError(what, where=path, hint="save the segmentation again in 3D Slicer")
    return np.array([of_value[value] for value in stored.tolist()])[position]


def _value(name: str, names: Mapping[str, int] | None, path: Path) -> int:
    if names is None:
        what = f"this is a segmentation of 3D Slicer, and nothing says what value its segment {name!r} has"
        hint = "give the work folder, whose labels have names (-w DIR), or export the segmentation as a labelmap"
        raise UserError(what, where=path, hint=hint)
    # 3D Slicer's users write these two with a capital, as they do all segments.
    general = name.lower() if name.lower() in (BACKGROUND, IGNORE) else name
    found = names.get(name, names.get(general))
    if found is None:
        listed = ", ".join(repr(each) for each in list(names)[:10]) + (", ..." if len(names) > 10 else "")
        what = f"the segment {name!r} is none of the labels {listed}"
        raise UserError(what, where=path, hint=_NAMES_HINT)
    return found


def placed(array: np.ndarray, own: Grid, target: Grid, path: Path) -> np.ndarray:
    """Place a segmentation into the grid of its image; what lies around it is background.

    Slicer cuts background off, and adds some where a segment was painted beyond the image. Background outside of the
    image is therefore left out. A segment outside of it has no image to be learned from, and shows that the two may not
    belong together.

    Args:
        array: Label values ``(1, x, y, z)`` in canonical order.
        own: The segmentation's grid. If it is one voxel of background, there are no segments and it means nothing.
        target: The image's grid.
        path: The file, for messages.

    Raises:
        UserError: If its voxels are not voxels of the image, or segments extend beyond the image.
    """
    shape = target.canonical().shape
    result = np.zeros((1, *shape), array.dtype)
    if array.shape == (1, 1, 1, 1) and not array.any():
        return result
    offset, difference = offset_in(target, own)
    if difference:
        hint = "in 3D Slicer, set the image as source geometry of the segmentation, and save it again"
        raise UserError(f"does not lie on the voxels of its image: {difference}", where=path, hint=hint)
    start, end = (np.clip(bound, 0, shape) for bound in (offset, offset + array.shape[-3:]))
    part = array[_box(start - offset, end - offset)]
    if outside := np.count_nonzero(array) - np.count_nonzero(part):
        what = f"{outside} voxel(s) of its segments lie outside of the image"
        hint = "check that image and segmentation belong together, or crop the segments to the image in 3D Slicer"
        raise UserError(what, where=path, hint=hint)
    result[_box(start, end)] = part
    return result


def _box(start: np.ndarray, end: np.ndarray) -> tuple[slice, ...]:
    return (slice(None), *(slice(int(low), int(high)) for low, high in zip(start, end, strict=True)))


def common_grid(first: Path, second: Path) -> Grid:
    """The grid to compare two label maps of one case on.

    It is that of the one which is no segmentation, before one without a pixel size; or is the first one's, enlarged so
    that it holds both.

    Raises:
        UserError: If a file cannot be read.
    """
    headers = [read_header(path) for path in (first, second)]
    plain = [header.grid for header in headers if header.segments is None]
    if plain:
        return min(plain, key=lambda grid: grid.unit != "mm")
    # A grid of one voxel comes last: it may be that of no segments, which means nothing.
    one, other = sorted((header.grid.canonical() for header in headers), key=lambda grid: grid.shape == (1, 1, 1))
    offset, difference = offset_in(one, other)
    if difference or other.shape == (1, 1, 1):
        return one
    low = np.minimum(offset, 0)
    x, y, z = (np.maximum(one.shape, offset + other.shape) - low).astype(int).tolist()
    affine = one.affine.copy()
    affine[:3, 3] = (one.affine @ [*low, 1])[:3]
    grid = replace(one, shape=(x, y, z), affine=affine)
    check_free_memory(replace(headers[0], grid=grid, channels=1), headers[0].dtype, first)
    return grid
