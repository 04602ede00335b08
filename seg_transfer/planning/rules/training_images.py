"""Sums up the training images, so that prediction can tell which images are unlike them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seg_transfer.planning.case_fingerprint import CaseFingerprint, rounded
from seg_transfer.planning.fingerprint import Fingerprint
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


def training_images(fingerprint: Fingerprint) -> TrainingImages:
    """Sum up intensities, spacing, size and orientation of the training images.

    Every figure is taken as normally distributed over the cases with an unknown standard deviation, which has a prior:
    a further case then follows Student's t distribution (Gelman et al., Bayesian Data Analysis, 3rd ed., section 3.3).
    """
    cases = [measures_of(case) for case in fingerprint.cases]
    axes = fingerprint.dimension
    channels = []
    for index in range(len(fingerprint.channels)):
        of_cases = [case.channels[index] for case in cases]
        scale = float(np.median([channel.std for channel in of_cases]))
        scale = rounded(scale) if scale > 0 else 1.0
        one, two, three, four, five = spreads([channel.figures(scale) for channel in of_cases], PRIOR_INTENSITY)
        channels.append(ChannelSpread(scale=scale, figures=(one, two, three, four, five)))
    return TrainingImages(
        cases=len(cases),
        degrees=len(cases) - 1 + PRIOR_CASES,
        channels=tuple(channels),
        spacing=spreads([case.log_spacing(axes) for case in cases], PRIOR_GEOMETRY),
        size=spreads([case.log_size(axes) for case in cases], PRIOR_GEOMETRY),
        orientations=tuple(sorted({case.orientation for case in fingerprint.cases})),
    )


def measures_of(case: CaseFingerprint) -> ImageMeasures:
    """What is compared of a measured case."""
    channels = tuple(
        ChannelMeasures(channel.minimum, channel.maximum, channel.mean, channel.std) for channel in case.channels
    )
    return ImageMeasures(channels, case.spacing, case.shape, case.orientation)


def spreads(values: Sequence[Sequence[float]] | np.ndarray, prior: float) -> tuple[Spread, ...]:
    """One spread per figure, of ``(case, figure)``; ``prior`` is their prior, and least, standard deviation."""
    array = np.array(values, dtype=float)
    count = len(array)
    means = array.mean(axis=0)
    squares = ((array - means) ** 2).sum(axis=0) + PRIOR_CASES * prior**2
    stds = np.maximum(prior, np.sqrt(squares / (count - 1 + PRIOR_CASES) * (1 + 1 / count)))
    return tuple(
        Spread(mean=rounded(mean), std=rounded(std), lowest=rounded(lowest), highest=rounded(highest))
        for mean, std, lowest, highest in zip(means, stds, array.min(axis=0), array.max(axis=0), strict=True)
    )
