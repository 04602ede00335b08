"""How many connected parts labels have: stray voxels and holes in an annotation show in their number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seg_transfer.data.dataset import Case, Dataset
from seg_transfer.data.formats import read_header
from seg_transfer.data.image import read_label


@dataclass(frozen=True)
class Fragments:
    """Connected parts of one label of one case.

    Attributes:
        count: Their number; voxels that share a corner are connected. 0 where the case does not hold the label.
        largest_share: Share of the label's voxels in the largest one; 0 without any.
    """

    count: int
    largest_share: float


def count_fragments(case: Case, *, dataset: Dataset) -> tuple[Fragments, ...]:
    """Count the fragments of each label of a case, without background.

    Args:
        case: A case with a label.
        dataset: Its data set, for the labels' values.

    Raises:
        UserError: If the label cannot be read, or has values that are not declared.
    """
    assert case.label is not None
    label = read_label(case.label, grid=read_header(case.images[0]).grid, names=dataset.names)
    classes = dataset.classes(label)
    return tuple(fragments_of(classes == index) for index in range(1, len(dataset.labels)))


def fragments_of(mask: np.ndarray) -> Fragments:
    """Count the fragments of a mask ``(x, y, z)``."""
    from scipy import ndimage

    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return Fragments(0, 0.0)
    inside = mask[found[0]]
    numbered, count = ndimage.label(inside, np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel())[1:]
    return Fragments(int(count), float(sizes.max() / sizes.sum()))
