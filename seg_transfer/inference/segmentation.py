"""What models made of one image in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What models made of one image, in the file's axis order.

    Attributes:
        labels: The label map ``(i, j, k)``, with the data set's label values.
        probabilities: Of each output, ``(output, i, j, k)``; None if they were not asked for.
        entropy: ``(i, j, k)`` in whole percent; None if it was not asked for.
        confidence: Of the label map, 0 to 1; None if it was not asked for. For both see
            :class:`~seg_transfer.inference.uncertainty.Uncertainty`.
    """

    labels: Any
    probabilities: Any = None
    entropy: Any = None
    confidence: float | None = None

    def of_maps(self, change: Callable[[NDArray[Any]], Any]) -> Segmentation:
        """The same with each of its maps changed."""
        probabilities = None if self.probabilities is None else change(self.probabilities)
        entropy = None if self.entropy is None else change(self.entropy)
        return Segmentation(change(self.labels), probabilities, entropy, self.confidence)

    def result(self) -> Any:
        """The label map alone, or a tuple of it and of what else was asked for, in the order of the attributes."""
        others = [each for each in (self.probabilities, self.entropy, self.confidence) if each is not None]
        return (self.labels, *others) if others else self.labels
