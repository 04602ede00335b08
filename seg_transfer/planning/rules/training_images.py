"""Sums up the training images, so that prediction can tell which images are unlike them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seg_transfer.planning.case_fingerprint import CaseFingerprint, rounded
from seg_transfer.planning.counted import Counted
from seg_transfer.planning.site_parts import SiteImages, SiteLabel
from seg_transfer.planning.training_images import (
    PRIOR_CASES,
    ChannelMeasures,
    ChannelSpread,
    ImageMeasures,
    LabelVolume,
    Spread,
    TrainingImages,
)

PRIOR_INTENSITY = 0.25
"""Prior, and least, standard deviation of figures of intensity between cases. Augmentation changes brightness and
contrast by as much (:class:`~seg_transfer.planning.plan.Augmentation`), so that smaller differences do not matter."""
PRIOR_GEOMETRY = 0.1
"""The same for the log of spacing and size: limits are then never closer than a factor of about 1.5, as far as
augmentation scales patches."""
PRIOR_VOLUME = 0.5
"""The same for the log of a label's volume and of its number of fragments: nine times the usual volume is then far
outside of five other cases, however alike they are."""


def training_images(images: SiteImages, dimension: int, labels: Sequence[SiteLabel] = ()) -> TrainingImages:
    """Sum up intensities, spacing, size and orientation of the training images, and the volumes of their labels.

    Every figure is taken as normally distributed over the cases with an unknown standard deviation, which has a prior:
    a further case then follows Student's t distribution (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.3).

    Args:
        images: Sum of the training images.
        dimension: 2 for 2D images.
        labels: Sum of each label, without background.
    """
    cases = images.spacing[0].size
    channels = []
    for counted in images.channels:
        scale = rounded(counted.column(3).quantile(0.5)) or 1.0
        figures = [ChannelMeasures(*row).figures(scale) for row in counted.values().tolist()]
        one, two, three, four, five = spreads(figures, PRIOR_INTENSITY, counted.counts)
        channels.append(ChannelSpread(scale=scale, figures=(one, two, three, four, five)))
    return TrainingImages(
        cases=cases,
        degrees=cases - 1 + PRIOR_CASES,
        channels=tuple(channels),
        spacing=tuple(_log_spread(axis, PRIOR_GEOMETRY) for axis in images.spacing[:dimension]),
        size=tuple(_log_spread(axis, PRIOR_GEOMETRY) for axis in images.extent[:dimension]),
        orientations=images.orientations,
        labels=tuple(
            LabelVolume(
                name=label.name,
                cases=label.cases,
                volume=_log_spread(label.ml, PRIOR_VOLUME) if label.ml.size else None,
            )
            for label in labels
        ),
    )


def _log_spread(counted: Counted, prior: float) -> Spread:
    """Spread of the log of a length or volume."""
    logs = [[math.log(size)] for (size,) in counted.values().tolist()]
    (spread,) = spreads(logs, prior, counted.counts)
    return spread


def measures_of(case: CaseFingerprint) -> ImageMeasures:
    """What is compared of a measured case."""
    channels = tuple(
        ChannelMeasures(channel.minimum, channel.maximum, channel.mean, channel.std) for channel in case.channels
    )
    return ImageMeasures(channels, case.spacing, case.shape, case.orientation)


def spreads(values: Sequence[Sequence[float]] | np.ndarray, prior: float, counts: Sequence[int]) -> tuple[Spread, ...]:
    """One spread per figure.

    Args:
        values: ``(row, figure)``.
        prior: Prior, and least, standard deviation of the figures.
        counts: How many cases each row stands for.
    """
    array, weights = np.array(values, dtype=float), np.array(counts)
    count = int(weights.sum())
    means = weights @ array / count
    squares = weights @ (array - means) ** 2 + PRIOR_CASES * prior**2
    stds = np.maximum(prior, np.sqrt(squares / (count - 1 + PRIOR_CASES) * (1 + 1 / count)))
    return tuple(
        Spread(mean=rounded(mean), std=rounded(std), lowest=rounded(lowest), highest=rounded(highest))
        for mean, std, lowest, highest in zip(means, stds, array.min(axis=0), array.max(axis=0), strict=True)
    )
