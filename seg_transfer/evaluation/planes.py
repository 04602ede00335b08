"""Slices of volumes and how they lie on paper.

Planes are in radiological orientation: the patient's right on the left, anterior and superior on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg_transfer.data.image import Image


@dataclass(frozen=True)
class Plane:
    """Orientation of a slice of a volume ``(x, y, z)`` in the figure.

    Args:
        name: Name in the figure.
        across: Canonical axis perpendicular to the slice.
        rows: Canonical axis that runs downwards, and whether it is reversed.
        columns: Canonical axis that runs to the right, and whether it is reversed.
        marks: Letters at the left, right and top.
    """

    name: str
    across: int
    rows: tuple[int, bool]
    columns: tuple[int, bool]
    marks: tuple[str, str, str]

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Slice ``(..., x, y, z)`` -> ``(..., row, column)``."""
        # Not np.take, which first copies a whole volume that is not C-contiguous, as volumes of files are not.
        flat = np.moveaxis(volume, volume.ndim - 3 + self.across, 0)[index].copy()
        if self.rows[0] > self.columns[0]:
            flat = flat.swapaxes(-1, -2)
        if self.rows[1]:
            flat = flat[..., ::-1, :]
        return flat[..., ::-1] if self.columns[1] else flat


AXIAL = Plane("axial", 2, (1, True), (0, True), ("R", "L", "A"))
CORONAL = Plane("coronal", 1, (2, True), (0, True), ("R", "L", "S"))
SAGITTAL = Plane("sagittal", 0, (2, True), (1, True), ("A", "P", "S"))
IMAGE_2D = Plane("", 2, (1, False), (0, False), ("", "", ""))


def planes_of(image: Image) -> tuple[Plane, ...]:
    """The planes to draw: one for a 2D image or a single slice, otherwise three."""
    if image.unit == "pixel":
        return (IMAGE_2D,)
    shape = image.array.shape[1:]
    flat = tuple(plane for plane in (AXIAL, CORONAL, SAGITTAL) if shape[plane.across] == 1)
    return flat[:1] or (AXIAL, CORONAL, SAGITTAL)


def best_slice(*counts: np.ndarray) -> int:
    """Index of the slice with the largest of the first counts that are not all 0, else of the middle one.

    Args:
        counts: Voxels of each slice, such as those of a label.
    """
    for each in counts:
        if each.any():
            return int(each.argmax())
    return len(counts[0]) // 2


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixel edges along the boundary of a mask ``(row, column)``.

    Returns:
        ``(edges, 2 ends, 2)``: column and row of each end, in pixels from the top left corner of the mask.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    rows, columns = np.nonzero(np.diff(padded[:, 1:-1], axis=0))
    horizontal = np.stack([np.stack([columns, rows], 1), np.stack([columns + 1, rows], 1)], 1)
    rows, columns = np.nonzero(np.diff(padded[1:-1], axis=1))
    vertical = np.stack([np.stack([columns, rows], 1), np.stack([columns, rows + 1], 1)], 1)
    return np.concatenate([horizontal, vertical])
