"""Structures in other intensities than in the training cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor
from torch.nn import functional

from seg_transfer.planning.plan import Augmentation
from seg_transfer.training.augment.intensity import VOXELS
from seg_transfer.training.augment.transform import Array, Draw, Transform, per_sample, rows_of

CLASSES = 256
"""Classes that are drawn for; those from here on take the values of the first ones again."""
MOST_SPREADS = 4.0
"""Largest shift over the measured spread: few cases show less than there is, and outliers are what matters."""
EDGE = (1, 3, 3)
"""Voxels over which a change begins, so that it draws no sharp edge around a structure."""


@dataclass(frozen=True)
class Structures(Transform):
    """Each labelled structure brighter or darker and with more or less contrast, whatever the others do.

    A few cases show a structure in a few intensities, and a network takes them for the structure. Changes by class are
    of Su et al. (Rethinking data augmentation for single-source domain generalization, AAAI 2023); here they are as
    large as the data set's own differences between cases: shifts up to ``MOST_SPREADS`` times the plan's spread,
    factors between 1 + spread and its inverse, in all channels in the same direction, which changes colours little.
    Results are clipped to the original range. The background stays.

    Attributes:
        shifts: ``(batch, channel, class)`` over the channel's standard deviation; 0 is neutral.
        factors: ``(batch, channel, class)`` on the distance from the class's mean; 1 is neutral.
    """

    shifts: Array
    factors: Array

    @classmethod
    def sample(cls, plan: Augmentation, draw: Draw) -> Self:
        chosen = draw.chosen(plan.structure_probability)
        spreads = np.zeros((draw.channels, 1), np.float32)
        spreads[:, 0] = plan.structure_spread or 0
        shifts, exponents = (draw.within(chosen, 1.0, 1, CLASSES) for _ in range(2))
        shifts[:, :, 0], exponents[:, :, 0] = 0, 0
        return cls(shifts * MOST_SPREADS * spreads, (1 + spreads) ** exponents)

    def apply(self, image: Tensor, label: Tensor) -> None:
        """Change ``(batch, channel, slice, u, v)`` in place.

        Args:
            image: The images.
            label: ``(batch, slice, u, v)`` class indices; below 0 where there is none. One slice in 2.5D, which says
                what all slices of the stack are.
        """
        if (rows := rows_of((self.factors != 1).any(axis=(1, 2)), image)) is None:
            return
        chosen, classes = image[rows], label[rows].long().clamp(min=0) % CLASSES
        first = (chosen.shape[2] - classes.shape[1]) // 2
        labelled = chosen[:, :, first : first + classes.shape[1]]
        where = classes.flatten(1)[:, None].expand(-1, chosen.shape[1], -1)
        sums = chosen.new_zeros(*where.shape[:2], CLASSES).scatter_add(2, where, labelled.flatten(2))
        counts = chosen.new_zeros(*where.shape[:2], CLASSES).scatter_add(2, where, labelled.new_ones(where.shape))
        growth = per_sample(self.factors, rows, rank=3) - 1
        offset = per_sample(self.shifts, rows, rank=3) * chosen.std(VOXELS)[..., None]
        offset = offset - growth * sums / counts.clamp(min=1)
        growth, offset = (
            functional.avg_pool3d(each.gather(2, where).reshape(labelled.shape), EDGE, 1, [size // 2 for size in EDGE])
            for each in (growth, offset)
        )
        changed = chosen + growth * chosen + offset
        image[rows] = changed.clamp(chosen.amin(VOXELS, True), chosen.amax(VOXELS, True))
