"""Says in what an image is unlike the training images: intensities, order of channels, spacing, size, orientation.

An image is far outside where a training case like it is expected in less than one of a thousand cases, over all figures
together. What a training case had itself is never far outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from seg_transfer.data.image import Image, filled
from seg_transfer.planning.distribution import mean_and_std
from seg_transfer.planning.plan import Plan
from seg_transfer.planning.training_images import ChannelMeasures, ChannelSpread, ImageMeasures, Spread, TrainingImages

FALSE_ALARMS = 1e-3
"""Share of images like the training images that get a warning, if figures are distributed as assumed. For the order of
channels: another order has to be so many times more likely."""

ROUNDING = 1e-4
"""Fingerprints are rounded to seven digits."""
LARGEST_LOG, FARTHEST = 700.0, 1e100
"""Limits and distances beyond them, of a model file that was made up, would overflow."""

_SHOWN: tuple[tuple[str, Callable[[float], float], bool], ...] = (
    ("mean", math.sinh, True),
    ("standard deviation", math.exp, True),
    ("mean in standard deviations", math.sinh, False),
    ("minimum in standard deviations", math.sinh, False),
    ("maximum above the mean in standard deviations", math.expm1, False),
)
"""Figures of a channel in messages: name, inverse of the function in :class:`ChannelSpread`, and whether it is in units
of the channel's scale."""


def measure_image(image: Image, *, oriented: bool = True) -> ImageMeasures:
    """Measure an image as the fingerprint does.

    Args:
        image: The image.
        oriented: Whether its file has an orientation; an array in memory has none.
    """
    channels = []
    for array in image.array:
        mean, std = mean_and_std(array)
        channels.append(ChannelMeasures(float(array.min()), float(array.max()), mean, std))
    x, y, z = image.array.shape[1:]
    orientation = image.native.orientation if oriented else None
    return ImageMeasures(tuple(channels), image.spacing, (x, y, z), orientation)


def unlike_plan(image: Image, plan: Plan, *, oriented: bool = True) -> tuple[str, ...]:
    """In what an image that fits a plan is far outside of its training images; empty if it is not.

    Plans of earlier versions do not know their training images: nothing is compared.

    Args:
        image: The image.
        plan: The plan.
        oriented: Whether the image's file has an orientation.
    """
    if plan.training_images is None:
        return ()
    return unlike_measured(measure_image(filled(image) if plan.data.fill_nan else image, oriented=oriented), plan)


def unlike_measured(measured: ImageMeasures, plan: Plan) -> tuple[str, ...]:
    """As :func:`unlike_plan`, of an image that was measured before."""
    if plan.training_images is None:
        return ()
    names = [channel.name for channel in plan.data.channels]
    return unlike_training(measured, plan.training_images, names, plan.data.unit)


def unlike_training(image: ImageMeasures, training: TrainingImages, names: Sequence[str], unit: str) -> tuple[str, ...]:
    """Describe in what an image is far outside of the training images; empty if it is not.

    Args:
        image: Measurements of the image.
        training: The training images, of as many channels.
        names: Names of the channels.
        unit: Unit of the spacing.
    """
    axes = len(training.spacing)
    limit = limit_of(training.degrees, 5 * len(names) + 2 * axes)
    found = []
    order = looks_like(image, training)
    moved = [(name, names[other]) for name, other in zip(names, order, strict=True) if name != names[other]]
    if moved and not any(_intensities(image.channels, [training.channels[other] for other in order], limit)):
        is_like = ", ".join(f"{name} looks like {other}" for name, other in moved)
        found.append(f"channels in the wrong order? {is_like} of the other images")
    else:
        for name, parts in zip(names, _intensities(image.channels, training.channels, limit), strict=True):
            if parts:
                found.append(f"{name}: {'; '.join(parts)}")
    for what, values, spreads in (
        ("spacing", image.log_spacing(axes), training.spacing),
        ("size", image.log_size(axes), training.size),
    ):
        parts = [
            outside(f"along {axis}", value, spread, limit, math.exp)
            for axis, value, spread in zip("xyz", values, spreads, strict=False)
        ]
        if any(parts):
            found.append(f"{what} in {unit}: {'; '.join(filter(None, parts))}")
    if image.orientation is not None and image.orientation not in training.orientations:
        known = ", ".join(training.orientations)
        found.append(f"orientation: its axes run {image.orientation}, expected {known}; is its header right?")
    return tuple(found)


def limit_of(degrees: int, figures: int) -> float:
    """How many standard deviations from the mean are far outside, where so many figures are compared."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - FALSE_ALARMS / (2 * figures)))


def looks_like(image: ImageMeasures, training: TrainingImages) -> list[int]:
    """Which channel of the training images each channel of an image is most like, together.

    Returns:
        Per channel of the image, the channel of the training images: ``[0, 1, …]`` unless another order is a thousand
        times more likely.
    """
    if len(image.channels) == 1:
        return [0]
    from scipy.optimize import linear_sum_assignment

    likelihoods = np.array(
        [
            [_log_likelihood(channel, spread, training.degrees) for spread in training.channels]
            for channel in image.channels
        ]
    )
    _, best = linear_sum_assignment(likelihoods, maximize=True)
    own = np.arange(len(best))
    gain = likelihoods[own, best].sum() - likelihoods[own, own].sum()
    return [int(other) for other in (best if gain > -math.log(FALSE_ALARMS) else own)]


def _log_likelihood(channel: ChannelMeasures, spread: ChannelSpread, degrees: int) -> float:
    """Log of the product of the figures' densities, of Student's t distribution, without constants."""
    total = 0.0
    for value, of in zip(channel.figures(spread.scale), spread.figures, strict=True):
        distance = min(abs(value - of.mean) / of.std, FARTHEST)
        total -= (degrees + 1) / 2 * math.log1p(distance**2 / degrees) + math.log(of.std)
    return total


def _intensities(
    channels: Sequence[ChannelMeasures], spreads: Sequence[ChannelSpread], limit: float
) -> list[list[str]]:
    """Per channel, the figures that are outside of their limits."""
    found = []
    for channel, spread in zip(channels, spreads, strict=True):
        figures = zip(_SHOWN, channel.figures(spread.scale), spread.figures, strict=True)
        parts = [
            outside(name, value, of, limit, unscale, spread.scale if scaled else 1.0)
            for (name, unscale, scaled), value, of in figures
        ]
        found.append([part for part in parts if part])
    return found


def outside(
    name: str, value: float, spread: Spread, limit: float, unscale: Callable[[float], float], scale: float = 1.0
) -> str:
    """The figure with its limits if it is outside of them, else an empty text.

    Args:
        name: Of the figure.
        value: Of the image that is compared.
        spread: Of the other images.
        limit: Standard deviations from which on it is outside.
        unscale: From the figure to what is shown.
        scale: Factor of what is shown.
    """
    low = max(-LARGEST_LOG, min(spread.lowest, spread.mean - limit * spread.std))
    high = min(LARGEST_LOG, max(spread.highest, spread.mean + limit * spread.std))
    if low - ROUNDING <= value <= high + ROUNDING:
        return ""
    shown, lower, upper = (scale * unscale(each) for each in (value, low, high))
    return f"{name} {shown:.3g}, expected {lower:.3g} to {upper:.3g}"
