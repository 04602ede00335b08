"""Sums up the training images, so that prediction can tell which images are unlike them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seg_transfer.planning.case_fingerprint import CaseFingerprint, rounded
from seg_transfer.planning.counted import Counted
from seg_transfer.planning.site_parts import SiteImages
from seg_transfer.planning.training_images import (
    ChannelMeasures,
    ChannelSpread,
    ImageMeasures,
    Spread,
    TrainingImages,
)

PRIOR_CASES = 4
"""The prior weighs as much as so many cases: with few cases it decides, with many their own spread."""
PRIOR_INTENSITY = 0.25
"""Prior, and least, standard deviation of figures of intensity between cases. Augmentation changes brightness and
contrast by as much (:class:`~seg_transfer.planning.plan.Augmentation`), so that smaller differences do not matter."""
PRIOR_GEOMETRY = 0.1
"""The same for the log of spacing and size: limits are then never closer than a factor of about 1.5, as far as
augmentation scales patches."""


def training_images(images: SiteImages, dimension: int) -> TrainingImages:
    """Sum up intensities, spacing, size and orientation of the training images.

    Every figure is taken as normally distributed over the cases with an unknown standard deviation, which has a prior:
    a further case then follows Student's t distribution (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.3).

    Args:
        images: Sum of the training images.
        dimension: 2 for 2D images.
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
        spacing=tuple(map(_log_spread, images.spacing[:dimension])),
        size=tuple(map(_log_spread, images.extent[:dimension])),
        orientations=images.orientations,
    )


def _log_spread(counted: Counted) -> Spread:
    """Spread of the log of a length."""
    logs = [[math.log(length)] for (length,) in counted.values().tolist()]
    (spread,) = spreads(logs, PRIOR_GEOMETRY, counted.counts)
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
