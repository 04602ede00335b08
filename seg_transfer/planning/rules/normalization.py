"""Normalization of each channel, and its mapping to the encoder's input range."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from seg_transfer.options.choices import NormalizationKind
from seg_transfer.planning.data_plan import Normalization
from seg_transfer.planning.fingerprint import PooledChannel

OUTLIER_LIMIT = 5.0
"""Above it, min-max would leave less than a fifth of [0, 1] to 99 % of the values."""
MASK_LIMIT = 0.75
"""If cropping keeps no more than this, empty borders would dominate the statistics (nnU-Net)."""
NO_SCALE_WORDS = {"mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "pd", "pet"}
NO_SCALE_WORDS |= {"suv", "us", "ultrasound"}
FIXED_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
FIXED_RANGE_WORDS = {"r", "g", "b", "red", "green", "blue", "rgb", "gray", "grey", "probability", "probabilities"}


def shared_scale(channels: Sequence[PooledChannel], *, dimension: int) -> tuple[bool, str]:
    """Whether channels of a fixed range share one scale: a label has the same values in all cases.

    A fixed range does not mean that light, stain or exposure were the same. So the label means of the cases are
    compared as stored and after z-score per image (:class:`LabelSpread`), for all such channels together: the colours
    of an image have to be scaled alike. There is no threshold. Where z-score won by this rule it also won in training
    (``bench/recipe.py``, docs/log.md).

    Args:
        channels: All channels of the data set.
        dimension: 2 for 2D images, 3 for volumes.

    Returns:
        Whether the scale is shared (True if nothing can be compared), and the measurement in words.
    """
    spreads = [channel.label_spread for channel in channels if channel.label_spread and fixed_range(channel, dimension)]
    if not spreads:
        return True, "no two cases to compare"
    stored = sum(spread.as_stored for spread in spreads) / len(spreads)
    zscore = sum(spread.zscore for spread in spreads) / len(spreads)
    return stored <= zscore, (
        f"a label's mean differs between cases by {stored:.2g} of the spread within an image as stored, by "
        f"{zscore:.2g} after z-score per image"
    )


def normalization(
    channel: PooledChannel,
    *,
    dimension: int,
    crop_ratio: float,
    scale: tuple[bool, str],
    requested: NormalizationKind | None = None,
) -> tuple[Normalization, str]:
    """Choose one channel's normalization.

    CT has a physical scale: clip to the data set's 0.5 and 99.5 foreground percentiles, then z-score with the data
    set's mean and std (nnU-Net). A fixed range is scaled by min-max where labels share its scale, unless outliers would
    compress it. Everything else is z-scored per image.

    Args:
        channel: Pooled measurements.
        dimension: 2 for 2D images, 3 for volumes.
        crop_ratio: Median share of voxels that cropping to nonzero keeps.
        scale: Result of :func:`shared_scale`.
        requested: The user's choice, if any.
    """
    foreground = channel.foreground
    if requested is not None:
        return _of_kind(requested, channel, crop_ratio), "requested"
    words = set(re.split(r"[^a-z0-9]+", channel.name.lower()))
    if "ct" in words and foreground is not None and foreground.percentile_00_5 < foreground.percentile_99_5:
        return _of_kind("clip_zscore", channel, crop_ratio), (
            f"{channel.name!r} is CT, whose scale is physical; clipped to the foreground's 0.5 and 99.5 percentiles "
            f"[{foreground.percentile_00_5:.5g}, {foreground.percentile_99_5:.5g}], then z-score with the data set's "
            f"mean {foreground.mean:.5g} and std {foreground.std:.5g}"
        )
    mask = ""
    if crop_ratio <= MASK_LIMIT:
        mask = f"; statistics inside the nonzero mask, since cropping keeps {crop_ratio:.0%} (limit {MASK_LIMIT:.0%})"
    zscore = _of_kind("zscore", channel, crop_ratio)
    if words & NO_SCALE_WORDS:
        return zscore, f"{channel.name!r} names a modality without a fixed scale; z-score per image{mask}"
    fixed = fixed_range(channel, dimension)
    if fixed is None:
        return zscore, (
            f"no fixed range ({', '.join(channel.dtypes)}, values {channel.minimum:.5g} to {channel.maximum:.5g}); "
            f"z-score per image{mask}"
        )
    if channel.outlier_ratio > OUTLIER_LIMIT:
        return zscore, (
            f"outliers: the range is {channel.outlier_ratio:.3g} times as wide as that of the middle 99 %; "
            f"limit {OUTLIER_LIMIT:g}, min-max would compress it; z-score per image{mask}"
        )
    shared, comparison = scale
    if not shared:
        return zscore, (
            f"fixed range {fixed[0]:g} to {fixed[1]:g}, but no shared scale; {comparison}; z-score per image{mask}"
        )
    return _of_kind("minmax", channel, crop_ratio), (
        f"fixed range {fixed[0]:g} to {fixed[1]:g} ({', '.join(channel.dtypes)}) without outliers; ratio "
        f"{channel.outlier_ratio:.3g}, limit {OUTLIER_LIMIT:g}; {comparison}; min-max to [0, 1]"
    )


def fixed_range(channel: PooledChannel, dimension: int) -> tuple[float, float] | None:
    """The range of a channel by its kind, if it has one: 8-bit 2D images, colours, [0, 1]."""
    words = set(re.split(r"[^a-z0-9]+", channel.name.lower()))
    if len(channel.dtypes) == 1 and channel.dtypes[0] in FIXED_RANGES:
        of_type = FIXED_RANGES[channel.dtypes[0]]
        return of_type if words & FIXED_RANGE_WORDS or (dimension == 2 and channel.dtypes[0] == "uint8") else None
    floats = all(dtype.startswith("float") for dtype in channel.dtypes)
    return (0.0, 1.0) if floats and channel.minimum >= 0 and channel.maximum <= 1 else None


def input_mapping(
    normalizations: Sequence[Normalization],
) -> tuple[Literal["as_is", "encoder_mean_std"], str]:
    """Choose how normalized channels are mapped to the encoder's input range: never both z-score and mean/std."""
    kinds = [normalization.kind for normalization in normalizations]
    if all(kind == "minmax" for kind in kinds):
        return "encoder_mean_std", (
            f"all {len(kinds)} channel(s) are in [0, 1], as the encoder's training images were: scaled with their "
            "mean and std"
        )
    return "as_is", f"{', '.join(kinds)}: not all in [0, 1], so the encoder's RGB mean and std do not apply"


def _of_kind(kind: NormalizationKind, channel: PooledChannel, crop_ratio: float) -> Normalization:
    if kind == "minmax":
        lower, upper = _range(channel)
        return Normalization(kind=kind, lower=lower, upper=upper)
    if kind == "clip_zscore":
        figures = channel.foreground
        assert figures is not None
        return Normalization(
            kind=kind,
            lower=figures.percentile_00_5,
            upper=figures.percentile_99_5,
            mean=figures.mean,
            std=figures.std,
        )
    return Normalization(kind=kind, mask=kind == "zscore" and crop_ratio <= MASK_LIMIT)


def _range(channel: PooledChannel) -> tuple[float, float]:
    """The range of the integer type, [0, 1], or else the measured range."""
    if len(channel.dtypes) == 1 and channel.dtypes[0] in FIXED_RANGES:
        return FIXED_RANGES[channel.dtypes[0]]
    if channel.minimum >= 0 and channel.maximum <= 1:
        return 0.0, 1.0
    return channel.minimum, channel.maximum
