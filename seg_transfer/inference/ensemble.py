"""Ensembles of configurations: the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seg_transfer.data.geometry import Box
from seg_transfer.inference.label_map import Slab
from seg_transfer.inference.predictor import PartOfCase, Predictor
from seg_transfer.inference.sliding_window import mean_slabs
from seg_transfer.inference.windows import longest_axis
from seg_transfer.planning.fields import Triple, part_hash


class Ensemble(Predictor):
    """The unweighted mean of predictors whose plans have equal data parts, so that they share one grid.

    Each member holds its sums of probabilities, so that memory grows with the number of members.

    Args:
        members: At least one predictor.

    Raises:
        ValueError: If the data parts differ.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        first = members[0]
        if len({part_hash(member.plan.data) for member in members}) > 1:
            raise ValueError("the members' plans prepare images differently")
        super().__init__(first.plan, first.networks, first.device)
        self.members = tuple(members)

    def slab_axis(self, shape: Sequence[int]) -> int:
        """The axis along which the slabs of all members need the least memory in sum."""
        return longest_axis(shape, [member.plan.model for member in self.members])

    def limit_memory(self, most: int) -> None:
        """Set the limit of every member; see :meth:`Predictor.limit_memory`."""
        super().limit_memory(most)
        for member in self.members:
            member.limit_memory(most)

    def window_bytes(self, allowed: int) -> int:
        return max(member.window_bytes(allowed) for member in self.members)

    def sums_bytes(self, shape: Sequence[int], axis: int) -> int:
        return sum(member.sums_bytes(shape, axis) for member in self.members)

    def slabs(
        self, array: NDArray[np.float32], *, axis: int, tta: bool = True, part: PartOfCase | None = None
    ) -> Iterator[Slab]:
        """Mean probabilities of the members in slabs, as of :meth:`Predictor.slabs`."""
        return mean_slabs([member.slabs(array, axis=axis, tta=tta, part=part) for member in self.members], axis=axis)

    def windows_box(self, shape: Triple, box: Box) -> Box:
        """The box that the windows of any member read."""
        along = zip(*(member.windows_box(shape, box) for member in self.members), strict=True)
        s, u, v = (slice(min(part.start for part in parts), max(part.stop for part in parts)) for parts in along)
        return s, u, v

    @property
    def longest_window(self) -> Triple:
        """The largest window of any member along each axis."""
        s, u, v = (max(member.longest_window[axis] for member in self.members) for axis in range(3))
        return s, u, v
